"""Networks by name: build an initialised network from a specification."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from torch import nn

from fedmerge.blame import guarded
from fedmerge.errors import FedMergeError, nearest
from fedmerge.models.cnn import small_cnn
from fedmerge.models.efficientnet import efficientnet_lite0
from fedmerge.models.inputs import Normalisation
from fedmerge.models.resnet import resnet18
from fedmerge.models.start_file import begin_from, check_start, start_digest
from fedmerge.models.vgg import vgg11, vgg16, vgg19
from fedmerge.models.vision import HALF_RANGE, check_classifier, classifier_names, torchvision_classifier
from fedmerge.models.vit import tiny_vit, vit_s14
from fedmerge.plugins import attribute
from fedmerge.registry import Method, Needs, Registry, options_model
from fedmerge.seeding import seeded
from fedmerge.tasks import TASKS, TaskName, mark

NETWORKS = Registry("model", "model", "fedmerge.networks")
_TORCHVISION = "torchvision:"
UNWRITTEN = {"task": "multiclass", "start_sha256": ""}

for _name, _builder, _title, _paper in (
    ("small-cnn", small_cnn, "Small CNN", ""),
    ("resnet18", resnet18, "ResNet-18, small-image stem", "He et al., arXiv 1512.03385"),
    ("vgg11", vgg11, "VGG-11", "Simonyan and Zisserman, arXiv 1409.1556"),
    ("vgg16", vgg16, "VGG-16", "Simonyan and Zisserman, arXiv 1409.1556"),
    ("vgg19", vgg19, "VGG-19", "Simonyan and Zisserman, arXiv 1409.1556"),
    ("tiny-vit", tiny_vit, "Tiny vision transformer", "Dosovitskiy et al., arXiv 2010.11929"),
    ("vit-s14", vit_s14, "Vision transformer S/14", "Dosovitskiy et al., arXiv 2010.11929"),
    ("efficientnet-lite0", efficientnet_lite0, "EfficientNet-Lite0", "Tan and Le, arXiv 1905.11946"),
):
    NETWORKS.method(_name, title=_title, paper=_paper)(_builder)


class ModelSpec(BaseModel):
    """A network by name, with the shape of its images (square, ``image_size`` px) and its classes.

    ``name`` is one of :func:`names`, ``torchvision:NAME``, or ``MODULE:FACTORY`` of a plug-in. ``options``
    are the keyword-only parameters of the network's builder; torchvision networks have none. task: what its
    outputs mean (``fedmerge.tasks``), which also says how many there are. pretrained: whether the network
    begins from its own pretrained weights, or the file that it begins from (``models.start_file``),
    whose SHA-256 ``start_sha256`` is. Both are written only where they are set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    in_channels: int = Field(ge=1)
    n_classes: int = Field(ge=2)
    image_size: int = Field(ge=1)
    pretrained: bool | str = False
    options: dict[str, Any] = Field(default_factory=dict)
    task: TaskName = "multiclass"
    start_sha256: str = ""

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if UNWRITTEN.get(key) != value}

    def untrained(self) -> ModelSpec:
        """Return this network without weights to begin from."""
        return self.model_copy(update={"pretrained": False, "start_sha256": ""})


def names() -> list[str]:
    """Our own networks, in the order of the table; torchvision's are ``torchvision:NAME``, in addition."""
    return NETWORKS.names()


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """Build the network on the CPU, in training mode, initialised from ``(seed, "init")``.

    It is marked with its task, and has the outputs of it. The global random state is left as it was. Raises
    FedMergeError for an unknown name or option, an image size the network cannot take, or pretrained weights
    that do not exist or cannot be had.
    """
    shape = (spec.in_channels, TASKS[spec.task].width(spec.n_classes), spec.image_size)
    own = spec.pretrained is True
    options = check_network(spec.name, spec.options, spec.pretrained)
    with seeded(seed, "init"):
        if spec.name.startswith(_TORCHVISION):
            made = torchvision_classifier(spec.name.removeprefix(_TORCHVISION), *shape, own)
        else:
            made = network(spec.name).call(*shape, *((True,) if own else ()), **options)
    if isinstance(spec.pretrained, str):
        _check_start(spec)
        begin_from(made, spec.pretrained, (spec.in_channels, spec.image_size))
    return mark(made, spec.task)


def _check_start(spec: ModelSpec) -> None:
    if spec.start_sha256 and start_digest(spec.pretrained) != spec.start_sha256:
        raise FedMergeError(
            f"the file of weights '{spec.pretrained}' is not the one that this began with: put it back, or "
            "begin anew."
        )


def check_network(name: str, options: dict[str, Any], pretrained: bool | str = False) -> dict[str, Any]:
    """Check a network's options and return them. Raises FedMergeError for faults seen before building."""
    if isinstance(pretrained, str):
        check_start(pretrained)
    if name.startswith(_TORCHVISION):
        if options:
            raise FedMergeError(f"model '{name}' takes no options: remove {', '.join(options)}.")
        check_classifier(name.removeprefix(_TORCHVISION))
        return {}
    found = network(name)
    checked = found.check(options)
    if pretrained is True and "pretrained" not in inspect.signature(found.call).parameters:
        raise FedMergeError(
            f"model '{name}' has no pretrained weights of its own: set pretrained: false or to a file of "
            "weights, or choose efficientnet-lite0 or torchvision:NAME."
        )
    return checked


def network(name: str) -> Method:
    """Return the network of that name, or the factory of a loaded plug-in, ``MODULE:FACTORY``."""
    if ":" in name:
        factory = attribute(name)
        call, options = guarded(factory, f"model '{name}'"), options_model(name, factory)
        return Method(name, name, "", NETWORKS.group, NETWORKS.kind, Needs(), call, options)
    if name not in NETWORKS:
        raise _unknown(name)
    return NETWORKS[name]


def module_of(name: str) -> str | None:
    """Return the module that a network's name says, ``MODULE:FACTORY``; None where it says none."""
    return name.partition(":")[0] if ":" in name and not name.startswith(_TORCHVISION) else None


def plugin_of(name: str) -> str | None:
    """Return the title of the plug-in that a network is from; None for all other networks."""
    if (module := module_of(name)) is not None:
        return module
    origin = NETWORKS[name].origin if name in NETWORKS else None
    return None if origin is None else origin.title


def default_normalisation(spec: ModelSpec) -> Normalisation:
    """Return the inputs' normalisation in pretraining: ImageNet's mean and deviation, or to [-1, 1].

    [-1, 1] too where nothing is pretrained and for grey images. EfficientNet-Lite0's weights come from
    TensorFlow, which feeds it (x - 127) / 128: its batch-norm statistics fit that range and no other.
    How weights in a file were trained is not known: an experiment says it (``normalisation``).
    """
    half = spec.name.removeprefix(_TORCHVISION) in (*HALF_RANGE, "efficientnet-lite0")
    imagenet = spec.pretrained and spec.in_channels == 3 and not half
    return Normalisation.named("imagenet" if imagenet else "half")


def _unknown(name: str) -> FedMergeError:
    hint = nearest(name, names())
    if name in classifier_names():
        hint = f" Did you mean '{_TORCHVISION}{name}'?"
    return FedMergeError(
        f"unknown model '{name}'.{hint} Allowed: {', '.join(names())}, {_TORCHVISION}NAME for any of "
        "torchvision's classifiers, or MODULE:FACTORY for a network of your own."
    )
