"""Where a classifier's encoder ends and its head begins, for any ``nn.Module``.

The head is the smallest module that holds the last parametrised layer and whose output, flattened to
N x C, is the model's logits: ``fc`` of a ResNet, ``classifier.6`` of a VGG, ``heads.head`` of a ViT, the
whole ``classifier`` of a SqueezeNet (a convolution, then ReLU and pooling). It is found by running the
model, not by its name, so nobody has to inherit from anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError, nearest
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

Group = Literal["encoder", "head"]


def group_of(key: str, head: str) -> Group:
    """Return the group of a state-dict ``key``: ``"head"`` inside the module ``head``, else ``"encoder"``."""
    return "head" if key.startswith(f"{head}.") else "encoder"


@torch.no_grad()
def find_head(model: nn.Module, example: Tensor) -> str:
    """Return the name of the classification head of ``model``, found by evaluating it on ``example``.

    ``example`` is a batch as the model takes it; two images are enough. The model's training flags are
    as before afterwards. Raises FedMergeError where the model has no parameters, nothing before its head, or
    no module from whose input the logits follow (then a head may be named by hand).
    """
    with evaluating(model):
        logits, inputs, last = _watched_forward(model, example)
        if not last:
            raise FedMergeError(
                f"{_named(model)} has no layer with parameters before a head; put an encoder before it."
            )
        for name in _with_ancestors(last):
            given = inputs.get(name, [])
            if len(given) == 1 and given[0] is not None and _gives(model, name, given[0], logits):
                _check_groups(model, name)
                return name
    raise FedMergeError(
        f"{_named(model)} has no module that turns features into its logits: they are not the output of "
        f"'{last}', its last layer with parameters, nor of a module around it; "
        'put the head in a module of its own and name it with head="...".'
    )


@torch.no_grad()
def check_head(model: nn.Module, head: str, example: Tensor) -> None:
    """Check that ``head`` splits ``model``: its output on its own input must be the model's logits.

    Raises FedMergeError where there is no such module, where the head or the rest has no parameters, and
    where ``apply_head(model, head, features(model, head, example))`` is not ``model(example)``.
    """
    _check_groups(model, head)
    with evaluating(model):
        inputs, logits = features_and_logits(model, head, example)
        if not _gives(model, head, inputs, logits):
            raise FedMergeError(
                f"the output of '{head}' is not the logits of {_named(model)}: something follows it, or it "
                'changes its own input; name the whole classification head with head="...".'
            )


def features(model: nn.Module, head: str, x: Tensor) -> Tensor:
    """Return what goes into ``head`` when ``model`` is called on ``x``; it is not copied."""
    return features_and_logits(model, head, x)[0]


def features_and_logits(model: nn.Module, head: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the head's input (not copied) and the logits N x C of the same forward pass."""
    seen: list[Tensor | None] = []
    module = _module(model, head)
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(_only(args, kwargs)), with_kwargs=True
    )
    try:
        logits = _as_logits(model, model(x))
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0] is None:
        raise FedMergeError(
            f"'{head}' of {_named(model)} is called {len(seen)} times in a forward pass and must be called "
            'once, with one tensor; name another module with head="...".'
        )
    return seen[0], logits


def apply_head(model: nn.Module, head: str, features: Tensor) -> Tensor:
    """Return the logits N x C that ``head`` gives for ``features`` (as :func:`features` returns them)."""
    return _as_logits(model, _module(model, head)(features))


def _watched_forward(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor | None]], str]:
    """Logits, each module's inputs (None: not one tensor), and the last parametrised module to start."""
    inputs: dict[str, list[Tensor | None]] = {}
    last = ""

    def watch(name: str, parametrised: bool) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal last
            inputs.setdefault(name, []).append(_only(args, kwargs))
            last = name if parametrised else last

        return hook

    handles = [
        module.register_forward_pre_hook(
            watch(name, next(module.parameters(recurse=False), None) is not None), with_kwargs=True
        )
        for name, module in model.named_modules()
    ]
    try:
        logits = _as_logits(model, model(x))
    finally:
        for handle in handles:
            handle.remove()
    return logits, inputs, last


def _with_ancestors(name: str) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``: a module's name and those around it, the model itself left out."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _gives(model: nn.Module, head: str, features: Tensor, logits: Tensor) -> bool:
    output = _module(model, head)(features)
    if not isinstance(output, Tensor) or output.numel() != logits.numel() or len(output) != len(logits):
        return False
    return torch.allclose(output.flatten(1), logits, rtol=1e-4, atol=1e-5, equal_nan=True)


def _check_groups(model: nn.Module, head: str) -> None:
    if next(_module(model, head).parameters(), None) is None:
        raise FedMergeError(
            f"'{head}' of {_named(model)} has no parameters and so is no head; name one that has."
        )
    if all(group_of(key, head) == "head" for key, _ in model.named_parameters()):
        raise FedMergeError(
            f"{_named(model)} has nothing with parameters before its head '{head}'; "
            'name a smaller module with head="...", or put an encoder before it.'
        )


def _module(model: nn.Module, head: str) -> nn.Module:
    try:
        if head:
            return model.get_submodule(head)
    except AttributeError:
        pass
    raise FedMergeError(
        f"{_named(model)} has no module '{head}' to be its head."
        f"{nearest(head, [name for name, _ in model.named_modules()])} "
        f"Its parts: {', '.join(name for name, _ in model.named_children())}."
    )


def _only(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    return args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None


def _as_logits(model: nn.Module, output: Any) -> Tensor:
    logits = logits_of(output, model)
    if logits.ndim >= 2:
        return logits.flatten(1)
    raise FedMergeError(
        f"{_named(model)} returns something of shape {tuple(logits.shape)}, "
        "not the logits N x C of a classifier."
    )


def _named(model: nn.Module) -> str:
    return f"the model {type(model).__name__}"
