"""Weights in files of one network: their names, cards, architecture, and images as the network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmerge.data.cohort.fusion import balanced
from fedmerge.data.images.images import Split, resize, to_channels
from fedmerge.data.sources.sources import load_source
from fedmerge.errors import FedMergeError, short
from fedmerge.models.cards import ModelCard, read_card
from fedmerge.models.inputs import Normalisation
from fedmerge.models.state import State, without_wrappers
from fedmerge.models.zoo import NETWORKS, ModelSpec, build, default_normalisation, module_of
from fedmerge.plugins import load_module
from fedmerge.schema.validation import validate
from fedmerge.schema.yaml_text import read_yaml
from fedmerge.seeding import numpy_generator

SHAPE = ("in_channels", "n_classes", "image_size")
DEFAULT = "default"
"""The normalisation that nobody named."""


@dataclass(frozen=True)
class FusionImages:
    """Images to fuse with: a source (see ``load_source``), which split, and how many, class-balanced.

    labelled: whether the method may see their classes. normalisation: ``half``, ``imagenet`` or ``none``,
    where no card says how they are normalised; by default the network's own.
    """

    source: str
    split: str = "val"
    images: int = 400
    labelled: bool = False
    normalisation: str = DEFAULT


def names_of(models: Sequence[Path]) -> list[str]:
    """Name the files, with folders where names are alike, numbered where a file is given twice."""
    names = [path.stem for path in models]
    if len(set(names)) < len(names):
        names = [str(path.with_suffix("")) for path in models]
    seen = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, seen, strict=True)]


def card_beside(path: Path) -> ModelCard | None:
    """Return the card in NAME.json beside NAME.safetensors; None where there is none."""
    card = path.with_suffix(".json")
    return read_card(card) if card.is_file() else None


def alike(states: Sequence[State], start: State | None) -> tuple[list[State], State | None]:
    """Return states under the same keys: without the prefixes of wrappers where only some have them."""
    every = [*states, *([] if start is None else [start])]
    if any(state.keys() != every[0].keys() for state in every):
        every = [without_wrappers(state) for state in every]
    return every[: len(states)], None if start is None else every[-1]


def images_of(data: str | None, split: str) -> Split | None:
    """Return one split of a data source; None without one. Raises FedMergeError for an unknown split."""
    if data is None:
        return None
    check_split(split)
    found: Split = getattr(load_source(data), split)
    return found


def check_split(split: str) -> None:
    """Raise FedMergeError for what is no split."""
    if split not in ("train", "val", "test"):
        raise FedMergeError(f"unknown split '{split}'. Allowed: train, val, test.")


def spec_of(text: str | None, card: ModelCard | None, state: State, images: Split | None) -> ModelSpec | None:
    """Return the network: as given, or as the first card says; None where only weights are known."""
    if text is None:
        if card is not None:
            return card.model.untrained()
        if images is not None:
            raise FedMergeError("data is given, but not the network it goes through: name it with --model.")
        return None
    name, rest = _parts(text)
    given: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, sign, value = pair.partition("=")
        if not sign:
            raise FedMergeError(f"--model {text}: write options as NAME=VALUE, not '{pair}'.")
        given[key] = read_yaml(value, f"--model {text}")
    shape = {key: given.pop(key) for key in SHAPE if key in given}
    known: dict[str, int] = {}
    if images is not None:
        known |= {"in_channels": images.images.shape[1], "image_size": images.images.shape[2]}
    for key in SHAPE:
        if key != "n_classes" and key not in shape | known:
            raise FedMergeError(f"--model {text}: say {key} too, as in --model {name}:{key}=28.")
    whole = {"name": name, "options": given, "n_classes": 2} | known | shape
    spec = validate(ModelSpec, whole, "--model")
    if "n_classes" in shape:
        return spec
    return spec.model_copy(update={"n_classes": _classes(spec, without_wrappers(state), text)})


def _classes(spec: ModelSpec, state: State, text: str) -> int:
    """Return how many classes weights have: the size of the first entry that grows with a network's classes.

    Files keep no order of entries, so that the last one need not be the head's.
    """
    few, more = (build(spec.model_copy(update={"n_classes": n}), seed=0).state_dict() for n in (2, 3))
    for key, value in few.items():
        if value.shape != more[key].shape and key in state and state[key].ndim:
            return int(state[key].shape[0])
    raise FedMergeError(f"--model {text}: say n_classes too, as in --model {spec.name}:n_classes=10.")


def drawn(
    found: Split, spec: ModelSpec, card: ModelCard | None, count: int, seed: int, normalisation: str = DEFAULT
) -> tuple[Split, Normalisation]:
    """Draw at most ``count`` images, class-balanced, in the network's size and channels.

    Returns them, uint8, with the normalisation of that name; by default the one that the card says, else the
    network's own in pretraining. Raises FedMergeError for an unknown name, and where a card says it already.
    """
    if card is not None and normalisation != DEFAULT:
        raise FedMergeError(
            f"--normalisation {normalisation}: the card of '{card.name}' says how images are normalised: "
            "take the option out."
        )
    few = found.select(balanced(found.strata, count, numpy_generator(seed, "fusion-data")))
    images = resize(to_channels(few.images, spec.in_channels), spec.image_size)
    if card is not None:
        inputs = card.normalisation
    elif normalisation != DEFAULT:
        inputs = Normalisation.named(normalisation)
    else:
        inputs = default_normalisation(spec)
    return replace(few, images=images), inputs.of(images)


def at_hospital(card: ModelCard, source: str | None) -> ModelCard:
    """Return a card with the normalisation at a hospital, where its rule is that each has its own.

    source: images of the hospital; those of training say mean and deviation, their labels are not looked at.
    Raises FedMergeError where it is needed and not given, or given and not needed.
    """
    if isinstance(card.normalisation, Normalisation):
        if source is not None:
            raise FedMergeError(
                f"'{card.name}' takes images by one normalisation for all hospitals: take --normalise out."
            )
        return card
    if source is None:
        raise FedMergeError(
            f"'{card.name}' takes images by each hospital's own mean and deviation: give images of this "
            "hospital with --normalise SOURCE, such as folder:DIR or npz:FILE."
        )
    spec, given = card.model, load_source(source, None, card.model.image_size, card.model.in_channels)
    images = resize(to_channels(given.train.images, spec.in_channels), spec.image_size)
    if not len(images):
        raise FedMergeError(f"--normalise {short(source)} has no training images: name another source.")
    return card.model_copy(update={"normalisation": card.normalisation.of(images)})


def _parts(text: str) -> tuple[str, str]:
    """Return a network's name, also ``torchvision:NAME`` or ``MODULE:FACTORY``, and its options as text."""
    name, _, rest = text.partition(":")
    inner, _, options = rest.partition(":")
    if not inner or "=" in inner or name in NETWORKS:
        return name, rest
    if module := module_of(f"{name}:{inner}"):
        load_module(module)
    return f"{name}:{inner}", options
