"""Fuse weights from files, whether FedMerge trained them or not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedmerge.data.fusion import balanced
from fedmerge.data.images import Split, resize, to_channels
from fedmerge.data.sources import load_source
from fedmerge.errors import Faults, FedMergeError, short
from fedmerge.experiment.configuration.changes import apply_change
from fedmerge.experiment.folder.machine import pick_device
from fedmerge.merging import FUSION, MergeResult, merge
from fedmerge.models.bare import bare
from fedmerge.models.cards import ModelCard, check_cards, read_card, write_model
from fedmerge.models.copies import faithful, fill
from fedmerge.models.entries import kinds
from fedmerge.models.state import State, check_alike, state_hash, without_wrappers
from fedmerge.models.weights import load_weights
from fedmerge.models.zoo import NETWORKS, ModelSpec, build, default_normalisation, module_of
from fedmerge.plugins import load_module
from fedmerge.registry import Needs
from fedmerge.schema.validation import is_folder, is_there, validate
from fedmerge.schema.yaml_text import read_yaml
from fedmerge.seeding import numpy_generator

SHAPE = ("in_channels", "n_classes", "image_size")


def merge_files(
    models: Sequence[Path],
    output: Path,
    method: str,
    *,
    network: str | None = None,
    data: str | None = None,
    split: str = "val",
    images: int = 400,
    labelled: bool = False,
    start: Path | None = None,
    changes: Sequence[str] = (),
    after: str = "none",
    seed: int = 0,
    device: str = "auto",
) -> MergeResult:
    """Fuse safetensors files of one network by a registered method and write the result, safetensors too.

    network: ``NAME`` or ``NAME:OPTION=VALUE,...`` with the zoo's names, and ``in_channels``, ``n_classes``,
    ``image_size`` among the options where neither data nor the weights say them; by default as the models'
    cards say. Without either, methods that only do arithmetic on weights work; those on task vectors must
    know parameters from buffers, which are averaged, so entries that differ must be named like parameters.
    ``module.`` and ``_orig_mod.`` in keys are taken out where they do not fit. data: a source of fusion
    images (see ``load_source``); split, images: which and how many of them, class-balanced. labelled: whether
    the method may see their classes. changes: the method's options, ``name=value``, the value read as YAML.

    Where the first model has a card (NAME.json), the result gets one too. Raises FedMergeError for a file
    that cannot be read or written, an output that is there already, an ensemble (it is not one network),
    cards that disagree, and whatever ``merge`` refuses.
    """
    if is_there(output) or os.path.lexists(output) or output.suffix != ".safetensors":
        raise FedMergeError(
            f"'{short(output)}' must be a new file that ends in .safetensors: choose another name."
        )
    if os.path.lexists(output.with_suffix(".json")):
        raise FedMergeError(
            f"'{short(output.with_suffix('.json'))}' is there already, where the card of the result would "
            "stand: choose another name."
        )
    if not is_folder(output.absolute().parent):
        raise FedMergeError(f"there is no folder '{short(output.parent)}' to write into: make it first.")
    if not os.access(output.absolute().parent, os.W_OK):
        raise FedMergeError(f"the folder '{output.parent}' cannot be written: choose another with --out.")
    registered = FUSION[method]
    if method.startswith("ensemble"):
        raise FedMergeError(
            f"'{method}' is not one network, so there is nothing to write: use another method."
        )
    states = [load_weights(path) for path in models]
    names = _names(models)
    cards = [_card_beside(path) for path in models]
    options: dict[str, Any] = {}
    for change in changes:
        apply_change(options, change)
    registered.check(options)
    _check_given(registered.needs_with(options), method, data, labelled, start, after)
    pool = _images(data, split)
    check_cards([card for card in cards if card is not None])
    begin = None if start is None else load_weights(start)
    states, begin = _alike(states, begin)
    spec = _spec(network, cards[0], states[0], pool)
    template = bare(states[0]) if spec is None else build(spec, seed=0).eval()
    if states[0].keys() != template.state_dict().keys():
        states, begin = [without_wrappers(state) for state in states], begin and without_wrappers(begin)
    check_alike((*names, "the network"), (*states, template.state_dict()))
    if spec is None and begin is not None and registered.needs.shared_start:
        _check_names(method, [begin, *states])
    where = pick_device(device)
    result = merge(
        [fill(faithful(template), state) for state in states],
        method,
        names=names,
        start=begin,
        after=after,
        seed=seed,
        device=where,
        **_fusion_set(pool, spec, cards[0], images, labelled, seed),
        **options,
    )
    state = {key: value.cpu() for key, value in result.model.state_dict().items()}
    write_model(output, state, _card(output.stem, state, cards, states, result, seed))
    return result


def _check_given(
    needs: Needs, method: str, data: str | None, labelled: bool, start: Path | None, after: str
) -> None:
    """Raise FedMergeError for all that a method needs and did not get, with the option to give."""
    images = needs.fusion_images or needs.fusion_sums or needs.score or after in ("repair", "batch-norm")
    what = f"'{method}'" + (f" with --after {after}" if after != "none" else "")
    faults = Faults()
    if images and data is None:
        faults.found.append(f"{what} needs fusion images: give them with --data.")
    if (needs.fusion_labels or needs.score) and not labelled:
        faults.found.append(f"{what} needs the classes of the fusion images: give --labelled.")
    if needs.shared_start and start is None:
        faults.found.append(f"{what} needs the weights from which all models were trained: give --start.")
    faults.say()


def _names(models: Sequence[Path]) -> list[str]:
    """Name the files, with folders where names are alike, numbered where a file is given twice."""
    names = [path.stem for path in models]
    if len(set(names)) < len(names):
        names = [str(path.with_suffix("")) for path in models]
    seen = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, seen, strict=True)]


def _card_beside(path: Path) -> ModelCard | None:
    card = path.with_suffix(".json")
    return read_card(card) if card.is_file() else None


def _alike(states: Sequence[State], start: State | None) -> tuple[list[State], State | None]:
    """Return states under the same keys: without the prefixes of wrappers where only some have them."""
    every = [*states, *([] if start is None else [start])]
    if any(state.keys() != every[0].keys() for state in every):
        every = [without_wrappers(state) for state in every]
    return every[: len(states)], None if start is None else every[-1]


def _check_names(method: str, states: Sequence[State]) -> None:
    """Raise FedMergeError where an entry may be a buffer as well as a parameter, and it matters."""
    first = states[0]
    for key, kind in kinds(first).items():
        known = kind != "mean" or re.search("weight|bias|gamma|beta|token|embed", key.rpartition(".")[2])
        if not known and any(key in s and not torch.equal(first[key], s[key]) for s in states):
            raise FedMergeError(
                f"'{key}' may be a parameter, to which '{method}' adds task vectors, or a buffer, which it "
                "averages: a file does not say. Name the network with --model, or merge modules in Python."
            )


def _images(data: str | None, split: str) -> Split | None:
    if data is None:
        return None
    if split not in ("train", "val", "test"):
        raise FedMergeError(f"unknown split '{split}'. Allowed: train, val, test.")
    found: Split = getattr(load_source(data), split)
    return found


def _spec(text: str | None, card: ModelCard | None, state: State, images: Split | None) -> ModelSpec | None:
    """Return the network: as given, or as the first card says; None where only weights are known."""
    if text is None:
        if card is not None:
            return card.model
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
    sizes = [value.shape[0] for value in state.values() if value.ndim > 0]
    known: dict[str, int] = {"n_classes": sizes[-1]} if sizes else {}
    if images is not None:
        known |= {"in_channels": images.images.shape[1], "image_size": images.images.shape[2]}
    for key in SHAPE:
        if key not in shape | known:
            raise FedMergeError(f"--model {text}: say {key} too, as in --model {name}:{key}=28.")
    return validate(ModelSpec, {"name": name, "options": given} | known | shape, "--model")


def _parts(text: str) -> tuple[str, str]:
    """Return a network's name, also ``torchvision:NAME`` or ``MODULE:FACTORY``, and its options as text."""
    name, _, rest = text.partition(":")
    inner, _, options = rest.partition(":")
    if not inner or "=" in inner or name in NETWORKS:
        return name, rest
    if module := module_of(f"{name}:{inner}"):
        load_module(module)
    return f"{name}:{inner}", options


def _fusion_set(
    found: Split | None, spec: ModelSpec | None, card: ModelCard | None, count: int, labelled: bool, seed: int
) -> dict[str, Any]:
    """Return images as the network takes them, and their labels if the method may see them."""
    if found is None or spec is None:
        return {}
    drawn = found.select(balanced(found.strata, count, numpy_generator(seed, "fusion-data")))
    normalise = card.normalisation if card is not None else default_normalisation(spec)
    images = resize(to_channels(drawn.images, spec.in_channels), spec.image_size)
    given: dict[str, Any] = {"data": normalise(images)}
    return given | {"labels": drawn.labels} if labelled else given


def _card(
    name: str,
    state: State,
    cards: Sequence[ModelCard | None],
    states: Sequence[State],
    result: MergeResult,
    seed: int,
) -> ModelCard | None:
    first = cards[0]
    if first is None:
        return None
    return ModelCard(
        name=name,
        position=0,
        model=first.model,
        normalisation=first.normalisation,
        class_names=first.class_names,
        parents=tuple(state_hash(parent) for parent in states),
        method=result.method,
        metrics={f"coefficient:{parent}": share for parent, share in result.coefficients.items()},
        seed=seed,
        sha256=state_hash(state),
    )
