"""Networks of the paper studies: trained once from a recipe, kept as safetensors beside the cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.studies.papers.images import SIDE, pictures
from fedmerge.data import Split
from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.models.state import State
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit

BATCH = 32
HALF = Normalisation.named("half")
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "small-cnn": ("small-cnn", {"width": 16}),
    "small-cnn-plain": ("small-cnn", {"width": 16, "norm": "none"}),
    "vgg11": ("vgg11", {"width": 8}),
    "vgg11-plain": ("vgg11", {"width": 8, "norm": "none"}),
    "vgg19-plain": ("vgg19", {"width": 8, "norm": "none"}),
    "vgg16": ("vgg16", {"width": 8}),
    "vgg19": ("vgg19", {"width": 8}),
    "resnet18": ("resnet18", {"width": 8}),
    "tiny-vit": ("tiny-vit", {"patch": 8, "dim": 64, "depth": 4}),
}
"""The zoo's network and its options; "plain" has no normalisation."""
LAYERS = {
    "small-cnn-plain": 4, "vgg11-plain": 9, "vgg19-plain": 17,
    "small-cnn": 4, "vgg11": 9, "vgg16": 14, "vgg19": 17,
}  # fmt: skip
"""Layers with weights."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    images, tested: training images of a model, images that measure. epochs: of a model; start: images and
    epochs of the start that models share. models: how many at most are averaged. points: of a path. fusion:
    images of a fusion set. grid: of a plane.
    """

    images: int = 1000
    tested: int = 400
    epochs: int = 5
    start: tuple[int, int] = (5000, 6)
    models: int = 10
    points: int = 11
    fusion: int = 200
    grid: int = 11


SMALL = Sizes(images=48, tested=24, epochs=1, start=(48, 1), models=3, points=3, fusion=16, grid=3)
"""A study of seconds, for tests."""


@dataclass(frozen=True)
class Workshop:
    """Where trained networks lie, and how large things are."""

    folder: Path
    sizes: Sizes

    def trained(
        self, model: nn.Module, split: Split, options: Mapping[str, Any], seed: int, recipe: Mapping[str, Any]
    ) -> nn.Module:
        """Train a network in place, or read what the same recipe gave; recipe: all that decides it."""
        described = {"sizes": asdict(self.sizes), "options": options, "seed": seed, **recipe}
        name = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:24]
        path = self.folder / "models" / f"{name}.safetensors"
        if path.is_file():
            model.load_state_dict(load_file(path))
        else:
            size = min(BATCH, len(split))
            chosen = TrainingOptions.model_validate(dict(options) | {"batch_size": size})
            fit(
                model,
                split.images,
                split.labels,
                chosen,
                normalise=HALF,
                draws=Draws(seed, site=str(recipe.get("site", ""))),
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        return model.eval()

    def start(self, network: str, seed: int) -> State:
        """Return the encoder that all models of a seed begin with, trained on classes of its own."""
        most, epochs = self.sizes.start
        found = pictures("tiny-start", seed, most, 1)
        model = self.trained(
            made(network, found.classes, seed), found.train, rates(network) | {"epochs": epochs}, seed,
            {"what": "start", "network": NETWORKS[network]},
        )  # fmt: skip
        return encoder_of(model)

    def tuned(
        self,
        network: str,
        data: str,
        split: Split,
        classes: int,
        seed: int,
        *,
        site: str,
        head: str = "",
        **more: Any,
    ) -> nn.Module:
        """Return a network trained on a split from the start; head: whose initial head ("": one for all)."""
        model = begun(network, classes, seed, self.start(network, seed), head)
        options = rates(network, 0.4) | {"epochs": self.sizes.epochs} | more
        recipe = {"what": "tuned", "network": NETWORKS[network], "data": data, "site": site, "head": head}
        return self.trained(model, split, options, seed, recipe | {"images": len(split)})


def made(network: str, classes: int, seed: int) -> nn.Module:
    """Build a network of the table, initialised by the seed."""
    name, options = NETWORKS[network]
    spec = ModelSpec(name=name, in_channels=3, n_classes=classes, image_size=SIDE, options=options)
    return build(spec, seed)


def begun(network: str, classes: int, seed: int, encoder: State, head: str = "") -> nn.Module:
    """Build a network with this encoder and a head drawn by seed and name."""
    model = made(network, classes, int(hashlib.sha256(f"{seed}{head}".encode()).hexdigest()[:7], 16))
    model.load_state_dict({key: encoder.get(key, value) for key, value in model.state_dict().items()})
    return model


def encoder_of(model: nn.Module) -> State:
    """Return the entries of a network below its head."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}


def rates(network: str, share: float = 1.0) -> dict[str, Any]:
    """Return optimizer and rate of a network; share: of the rate of a start."""
    if network == "tiny-vit" or "plain" in network:
        return {"optimizer": "adamw", "lr": 2e-3 * share, "weight_decay": 1e-2}
    return {"lr": 0.05 * share}


def seen(split: Split) -> tuple[Tensor, Tensor]:
    """Return a split's images as networks take them, and its labels."""
    return HALF(split.images), split.labels
