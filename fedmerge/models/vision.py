"""Any torchvision classifier by name, fitted to the images and the classes."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from fedmerge.errors import FedMergeError, nearest

# Their pretrained weights were trained on inputs in [-1, 1]; torchvision converts inside the network.
HALF_RANGE = ("googlenet", "inception_v3")
_REFUSALS = (RuntimeError, ValueError, AssertionError)


def _torchvision() -> Any:
    """Import torchvision late: it takes seconds, and most runs have no use for it."""
    return importlib.import_module("torchvision.models")


def classifier_names() -> list[str]:
    """The names torchvision knows for image classification."""
    models = _torchvision()
    return list(models.list_models(module=models))


def check_classifier(name: str) -> None:
    """Raise FedMergeError for a name that torchvision does not know."""
    if name not in classifier_names():
        raise FedMergeError(
            f"torchvision has no classifier '{name}'.{nearest(name, classifier_names())} "
            "Names are those of torchvision.models.list_models()."
        )


def torchvision_classifier(
    name: str, in_channels: int, n_classes: int, image_size: int, pretrained: bool = False
) -> nn.Module:
    """The torchvision classifier ``name`` with ``n_classes`` outputs and ``in_channels`` inputs.

    The first convolution is replaced unless images have three channels; pretrained colour filters are
    summed for grey images. Auxiliary heads are off. Raises FedMergeError for an unknown name, pretrained
    weights that cannot be had, or an image size that the network cannot take (found by a dry pass).
    """
    check_classifier(name)
    network = _pretrained(name, n_classes) if pretrained else _fresh(name, n_classes, image_size)
    if in_channels != 3:
        _replace_first_conv(network, in_channels, keep=pretrained)
    _dry_pass(network, name, in_channels, image_size)
    return network


def _fresh(name: str, n_classes: int, image_size: int) -> nn.Module:
    models = _torchvision()
    try:
        return models.get_model(name, weights=None, num_classes=n_classes, **_shape_options(name, image_size))
    except _REFUSALS as error:
        raise _unfit(name, image_size, error) from None


def _pretrained(name: str, n_classes: int) -> nn.Module:
    models = _torchvision()
    options = {"transform_input": False} if name in HALF_RANGE else {}
    try:
        network = models.get_model(name, weights="DEFAULT", progress=False, **options)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FedMergeError(
            f"the pretrained weights of 'torchvision:{name}' could not be downloaded ({reason}): "
            "go online once, choose 'efficientnet-lite0', whose weights come with pip, "
            "or set pretrained: false."
        ) from None
    if name == "inception_v3":
        network.aux_logits, network.AuxLogits = False, None
    _replace_head(network, n_classes)
    return network


def _shape_options(name: str, image_size: int) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    if name in HALF_RANGE:
        return {"aux_logits": False, "transform_input": False, "init_weights": True}
    return {}


def _replace_head(network: nn.Module, n_classes: int) -> None:
    """Put a fresh layer of ``n_classes`` in place of the last linear layer (SqueezeNet: 1x1 conv)."""
    path, old = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        _put(network, path, nn.Linear(old.in_features, n_classes, bias=bias))
    else:
        _put(network, path, nn.Conv2d(old.in_channels, n_classes, 1, bias=bias))


def _replace_first_conv(network: nn.Module, in_channels: int, *, keep: bool) -> None:
    path, old = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
    shape: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding")}
    new = nn.Conv2d(in_channels, old.out_channels, **shape, bias=old.bias is not None)
    if keep and in_channels == 1:
        new.load_state_dict(old.state_dict() | {"weight": old.weight.detach().sum(dim=1, keepdim=True)})
    _put(network, path, new)


def _put(network: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, new)


@torch.no_grad()
def _dry_pass(network: nn.Module, name: str, in_channels: int, image_size: int) -> None:
    network.eval()
    try:
        network(torch.zeros(1, in_channels, image_size, image_size))
    except _REFUSALS as error:
        raise _unfit(name, image_size, error) from None
    network.train()


def _unfit(name: str, image_size: int, error: Exception) -> FedMergeError:
    reason = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
    return FedMergeError(
        f"model 'torchvision:{name}' cannot take images of {image_size} px ({reason}): "
        "use larger images or another network, such as small-cnn or resnet18."
    )
