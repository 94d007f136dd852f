"""Find the models that are to be served: in a run's folder, in a folder of models, or file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from fedmerge.data.reading import ReadOptions, over
from fedmerge.errors import FedMergeError, short, unknown
from fedmerge.experiment.configuration.reading import sources_of_run
from fedmerge.experiment.folder.reopen import read_table
from fedmerge.models.cards import ModelCard, check_cards, read_card
from fedmerge.models.loading import network_of
from fedmerge.models.state import state_hash
from fedmerge.models.weights import load_weights
from fedmerge.schema.validation import is_folder, is_there, load_yaml, validate
from fedmerge.schema.yaml_text import read_yaml


@dataclass(frozen=True, eq=False)
class Found:
    """Models with their cards, in order; of a run also its configuration, as it is in the file.

    config: empty where it is no run's. fused: the run's fused networks for the target, by label. target: the
    unseen hospital; None where none was named, or there are several. chosen: options that the run tuned for
    the target, by label, then by the option's path. read: how the run reads the target's images, or the
    cohort's. sources: where relative paths of the cohort's sources start.
    """

    models: tuple[tuple[ModelCard, Path], ...]
    config: dict[str, Any] = field(default_factory=dict)
    fused: dict[str, Path] = field(default_factory=dict)
    target: str | None = None
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)
    sources: Path | None = None

    def load(self) -> dict[str, nn.Module]:
        """Return the networks by name. Raises FedMergeError for weights that are not as their card says."""
        return {card.name: load_model(card, path) for card, path in self.models}


def load_model(card: ModelCard, path: Path) -> nn.Module:
    """Return a network with the weights in a file, checked against the hash on its card."""
    state = load_weights(path)
    if state_hash(state) != card.sha256:
        raise FedMergeError(
            f"'{path}' does not have the hash on its card: the weights were changed or damaged. Restore the "
            "file from a copy, or make the model again."
        )
    return network_of(card.model, state, card.name)


def find_models(places: Sequence[Path], target: str | None = None, seed: int | None = None) -> Found:
    """Find the models in the folder of a run, in a folder of models, or in files with cards beside them.

    target: the hospital that is served; its own model is not among a run's then, and a run with several
    federations serves the one that did not train there. seed: of the run's seeds; by default the smallest.
    Nothing is loaded and no plug-in of a run is. Raises FedMergeError where there are no models, two have one
    name, or they cannot be merged (``check_cards``).
    """
    if len(places) == 1 and is_there(places[0] / "config.yaml"):
        found = _of_run(places[0], target, seed)
    else:
        for given, name in ((target, "--target"), (seed, "--seed")):
            if given is not None:
                raise FedMergeError(f"{name} is for the folder of a run, and none was given: take it out.")
        found = Found(tuple(_card(path) for place in places for path in _files(place)))
    names = [card.name for card, _ in found.models]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise FedMergeError(f"two models are called '{twice[0]}': name the files after their hospitals.")
    check_cards([card for card, _ in found.models])
    return found


def _files(place: Path) -> list[Path]:
    if not is_folder(place):
        if not is_there(place):
            raise FedMergeError(f"there is nothing at '{short(place)}': give the folder of a run, or models.")
        return [place]
    found = [path for path in place.glob("*.safetensors") if path.with_suffix(".json").is_file()]
    if not found:
        raise FedMergeError(
            f"'{short(place)}' is no run's folder, as it has no config.yaml, and has no models with cards: "
            "give the folder of a run, a folder of models, or files."
        )
    return sorted(found, key=lambda path: (read_card(path.with_suffix(".json")).position, path.name))


def _card(path: Path) -> tuple[ModelCard, Path]:
    card = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not card.is_file():
        raise FedMergeError(
            f"'{short(path)}' has no card: beside NAME.safetensors stands NAME.json, which says the network, "
            "its classes and how images are normalised. fedmerge run and fedmerge merge write both."
        )
    return read_card(card), path


def _of_run(run: Path, target: str | None, seed: int | None) -> Found:
    config = load_yaml(run / "config.yaml")
    seeds = sorted(int(each.name[5:]) for each in run.glob("seed-*") if each.name[5:].isdigit())
    if seed is not None and seed not in seeds:
        raise unknown("seed", str(seed), map(str, seeds))
    if not seeds:
        raise FedMergeError(
            f"'{short(run)}' keeps no models: its run has not come so far. Do it again, or go on with it."
        )
    seed = seeds[0] if seed is None else seed
    federation = _federation(run / f"seed-{seed}", target)
    others = [path for path in _files(federation / "pool") if path.stem != target]
    if not others:
        raise FedMergeError(f"'{federation / 'pool'}' has no model but that of '{target}' itself.")
    targets = [each.parent.name for each in federation.glob("*/fused")]
    chosen = target or (targets[0] if len(targets) == 1 else None)
    fused = (
        {} if chosen is None else {p.stem: p for p in (federation / chosen / "fused").glob("*.safetensors")}
    )
    begun = sources_of_run(run / "config.yaml")
    tuned = _tuned(read_table(run / "decisions.json"), seed, chosen)
    return Found(tuple(map(_card, others)), config, fused, chosen, tuned, _reading(config, chosen), begun)


def _tuned(decisions: pd.DataFrame, seed: int, target: str | None) -> dict[str, dict[str, Any]]:
    """Return the options that a run tuned for a target, by label and path, from its decisions."""
    if target is None or not {"option", "chosen"} <= set(decisions):
        return {}
    here = decisions["seed"].eq(seed) & decisions["site"].eq(target) & decisions["chosen"].eq(True)
    found: dict[str, dict[str, Any]] = {}
    for row in decisions[here].to_dict("records"):
        found.setdefault(row["method"], {})[row["option"]] = read_yaml(str(row["value"]), "decisions.json")
    return found


def _reading(config: dict[str, Any], target: str | None) -> ReadOptions:
    """Return a run's options ``read``, with those of the target's site over the cohort's."""
    cohort = config.get("cohort")
    if not isinstance(cohort, dict):
        return ReadOptions()
    sites = [each for each in cohort.get("sites") or () if isinstance(each, dict)]
    own = next((each for each in sites if each.get("name") == target), {})
    common, its = _read_in(cohort, "cohort"), _read_in(own, f"cohort, site '{target}'")
    return over(ReadOptions, common, its)


def _federation(seed: Path, target: str | None) -> Path:
    """Return the folder of the federation that serves ``target``."""
    found = {
        each.parent.name: each.parent
        for each in sorted(seed.glob("*/pool"))
        if any(each.glob("*.safetensors"))
    }
    if f"without-{target}" in found:
        return found[f"without-{target}"]
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise FedMergeError(f"'{short(seed)}' keeps no models: do the run again, or put its models back.")
    held = [name.removeprefix("without-") for name in found]
    if target is not None:
        raise unknown("target", target, held)
    raise FedMergeError(
        f"the run has {len(found)} federations, one for each target: give --target: {', '.join(held)}."
    )


def _read_in(given: dict[str, Any], where: str) -> ReadOptions | None:
    if given.get("read") is None:
        return None
    return validate(ReadOptions, given["read"], f"config.yaml, {where}: read")
