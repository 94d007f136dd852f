"""Where models come from: every model with a card below a folder, and the parents that cards name by hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.models.cards import ModelCard, read_card
from fedmerge.schema.validation import is_folder, is_there


@dataclass(frozen=True)
class KnownModel:
    """A model with its card. path: of its weights. place: that path in the folder that was looked through."""

    path: Path
    place: str
    card: ModelCard


def models_below(folder: Path) -> tuple[list[KnownModel], list[str]]:
    """Return every model with a card in ``folder`` and below, by path, and a sentence for each unusable card.

    Raises FedMergeError where there is no such folder, or no model in it.
    """
    if not is_folder(folder):
        raise FedMergeError(f"there is no folder '{short(folder)}': give a run, or a folder of models.")
    found: list[KnownModel] = []
    faults: list[str] = []
    for path in sorted(folder.rglob("*.safetensors")):
        beside = path.with_suffix(".json")
        if not is_there(beside):
            continue
        try:
            card = read_card(beside)
        except FedMergeError as error:
            faults += error.args
        else:
            place = path.relative_to(folder).with_suffix("").as_posix()
            found.append(KnownModel(path, place, card))
    if not found and not faults:
        raise FedMergeError(
            f"'{short(folder)}' holds no model with a card (NAME.safetensors beside NAME.json): give a run's "
            "folder, or one that `fedmerge merge` wrote into."
        )
    return found, faults


def find_model(path: Path) -> KnownModel:
    """Return the model at ``path``: its weights, its card, or either without the ending.

    Raises FedMergeError where there is none, with the nearest name in its folder.
    """
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    weights, beside = (stem.parent / f"{stem.name}{ending}" for ending in (".safetensors", ".json"))
    if not is_there(weights) or not is_there(beside):
        names = [each.stem for each in stem.parent.glob("*.safetensors")] if is_folder(stem.parent) else []
        raise FedMergeError(
            f"there is no model with a card at '{short(stem)}'.{nearest(stem.name, names)} "
            "`fedmerge models list FOLDER` lists those of a run."
        )
    return KnownModel(weights, stem.name, read_card(beside))


def lineage(model: KnownModel, known: Sequence[KnownModel]) -> Iterator[tuple[int, str]]:
    """Yield a model's ancestors as (generation, words), each under what was made of it; 0 is the model.

    A parent that is not among ``known`` is there by the first letters of its hash.
    """
    by_hash = {each.card.sha256: each for each in known}

    def walk(each: KnownModel, depth: int, above: frozenset[str]) -> Iterator[tuple[int, str]]:
        yield depth, f"{each.place}: {each.card.method}"
        for parent in each.card.parents:
            if parent in by_hash and parent not in above:
                yield from walk(by_hash[parent], depth + 1, above | {parent})
            else:
                yield depth + 1, f"{parent[:12]}…: its file is not here"

    yield from walk(model, 0, frozenset({model.card.sha256}))
