"""Fuse weights from files, whether FedMerge trained them or not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedmerge.data.images.images import Split
from fedmerge.errors import Faults, FedMergeError, short
from fedmerge.experiment.configuration.entries import MethodConfig, asked_method
from fedmerge.experiment.configuration.needs import needs_of
from fedmerge.experiment.folder.machine import pick_device
from fedmerge.merging import FUSION, MergeResult, merge
from fedmerge.models.bare import bare
from fedmerge.models.cards import ModelCard, check_cards, write_model
from fedmerge.models.copies import faithful, fill
from fedmerge.models.entries import kinds
from fedmerge.models.state import State, check_alike, state_hash, without_wrappers
from fedmerge.models.weights import load_weights
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.schema.validation import is_folder, is_there
from fedmerge.workflows.model_files import DEFAULT, alike, card_beside, drawn, images_of, names_of, spec_of


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


def merge_files(
    models: Sequence[Path],
    output: Path,
    method: str | Mapping[str, Any],
    *,
    network: str | None = None,
    data: FusionImages | None = None,
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> MergeResult:
    """Fuse safetensors files of one network by a registered method and write the result, safetensors too.

    method: a name, or an entry as a configuration has it: ``method``, its options, ``after``.
    network: ``NAME`` or ``NAME:OPTION=VALUE,...`` with the zoo's names, and ``in_channels``, ``n_classes``,
    ``image_size`` among the options where neither data nor the weights say them; by default as the models'
    cards say. Without either, methods that only do arithmetic on weights work; those on task vectors must
    know parameters from buffers, which are averaged, so entries that differ must be named like parameters.
    ``module.`` and ``_orig_mod.`` in keys are taken out where they do not fit. data: fusion images. start:
    the weights from which all were trained.

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
    entry = asked_method(FUSION, method)
    if entry.method.startswith("ensemble"):
        raise FedMergeError(
            f"'{entry.method}' is not one network, so there is nothing to write: use another method."
        )
    states = [load_weights(path) for path in models]
    names = names_of(models)
    cards = [card_beside(path) for path in models]
    _check_given(entry, data, start)
    pool = None if data is None else images_of(data.source, data.split)
    check_cards([card for card in cards if card is not None])
    begin = None if start is None else load_weights(start)
    states, begin = alike(states, begin)
    spec = spec_of(network, cards[0], states[0], pool)
    template = bare(states[0]) if spec is None else build(spec, seed=0).eval()
    if states[0].keys() != template.state_dict().keys():
        states, begin = [without_wrappers(state) for state in states], begin and without_wrappers(begin)
    check_alike((*names, "the network"), (*states, template.state_dict()))
    if spec is None and begin is not None and FUSION[entry.method].needs.shared_start:
        _check_names(entry.method, [begin, *states])
    where = pick_device(device)
    result = merge(
        [fill(faithful(template), state) for state in states],
        entry.method,
        names=names,
        start=begin,
        seed=seed,
        device=where,
        **_fusion_set(data, pool, spec, cards[0], seed),
        **entry.choices,
    )
    state = {key: value.cpu() for key, value in result.model.state_dict().items()}
    write_model(output, state, _card(output.stem, state, cards, states, result, seed))
    return result


def _check_given(entry: MethodConfig, data: FusionImages | None, start: Path | None) -> None:
    """Raise FedMergeError for all that a method needs and did not get, with the option to give."""
    needs = needs_of(entry)
    images = needs.fusion_images or needs.fusion_sums or needs.score
    what = f"'{entry.method}'" + (f" with --after {entry.after}" if entry.after != "none" else "")
    faults = Faults()
    labels = needs.fusion_labels or needs.score
    if images and data is None:
        more = (" and their classes", " and --labelled") if labels else ("", "")
        faults.found.append(f"{what} needs fusion images{more[0]}: give them with --data{more[1]}.")
    elif labels and data is not None and not data.labelled:
        faults.found.append(f"{what} needs the classes of the fusion images: give --labelled.")
    if needs.shared_start and start is None:
        faults.found.append(f"{what} needs the weights from which all models were trained: give --start.")
    faults.say()


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


def _fusion_set(
    data: FusionImages | None, found: Split | None, spec: ModelSpec | None, card: ModelCard | None, seed: int
) -> dict[str, Any]:
    """Return images as the network takes them, and their labels if the method may see them."""
    if data is None or found is None or spec is None:
        return {}
    split, normalise = drawn(found, spec, card, data.images, seed, data.normalisation)
    given: dict[str, Any] = {"data": normalise(split.images)}
    return given | {"labels": split.labels} if data.labelled else given


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
