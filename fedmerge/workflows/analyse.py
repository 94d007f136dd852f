"""``analyse``: why merging worked or failed, of a finished run or of weights in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis import ANALYSES, Subject, diagnose
from fedmerge.data.images.images import Split, concat
from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.configuration.changes import apply_change
from fedmerge.experiment.folder.analysed import Analysed
from fedmerge.experiment.folder.folders import new_folder
from fedmerge.experiment.folder.machine import pick_device
from fedmerge.experiment.folder.reopen import read_saved, read_table
from fedmerge.experiment.folder.results import write_table
from fedmerge.merging.images import Given
from fedmerge.models.cards import check_cards
from fedmerge.models.copies import faithful, fill
from fedmerge.models.inputs import Normalisation, PerImage
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State, check_alike, without_wrappers
from fedmerge.models.weights import load_weights
from fedmerge.models.zoo import build
from fedmerge.schema.validation import is_folder, is_there
from fedmerge.seeding import derive
from fedmerge.storage.files import write, write_json
from fedmerge.workflows.model_files import (
    DEFAULT,
    FusionImages,
    alike,
    card_beside,
    check_split,
    drawn,
    images_of,
    names_of,
    spec_of,
)

PLAIN = Normalisation.named("none")
"""Stands for hospitals whose images are not here."""
MOST_BATCHES = 20
"""Merged models of single batches that are marked on a plane."""


def analyse(
    models: Sequence[str | Path] | Sequence[nn.Module] | Mapping[str, nn.Module],
    *,
    data: Given | str | None = None,
    labels: Tensor | Sequence[int] | None = None,
    network: str | None = None,
    split: str = "val",
    images: int = 400,
    normalisation: str = DEFAULT,
    start: nn.Module | State | str | Path | None = None,
    only: Sequence[str] = (),
    changes: Sequence[str] = (),
    **places: Any,
) -> Analysed:
    """Diagnose networks in memory, models in safetensors files, or the hospitals' models of a run.

    models: two networks or more, a mapping of them by name, two files or more, or the folder of one run.
    data: images; for networks N x C x H x W as they take them, with ``labels``, or a loader or dataset, as
    for ``merge``. network, data, split, images, normalisation: of files, as for ``merge_files``; of a run the
    images are those of the training hospitals' ``split``, ``images`` in all. start: the weights from which
    the models were trained, for angles around them. only: names of analyses; by default all but those that
    train. changes: their options, ``NAME.OPTION=VALUE``. places: ``out`` (the folder, new or empty; by
    default ``runs/analysis-001``, of networks none), ``seed``, ``device``.

    Where there is a folder, each table is written as NAME-TABLE.csv and .parquet, each sentence into
    findings.json. Raises FedMergeError for what cannot be read or does not fit together.

    >>> fm.analyse([net_a, net_b], data=x, labels=y).findings["barriers"].sentence      # doctest: +SKIP
    """
    names = list(only) or None
    for name in only:
        ANALYSES[name]
    options: dict[str, Any] = {}
    for change in changes:
        apply_change(options, change)
    for name, given in options.items():
        if not isinstance(given, dict):
            raise FedMergeError(
                f"--set {name}: write options as ANALYSIS.OPTION=VALUE, as landscape.grid=21."
            )
        ANALYSES[name].check(given)
    seed, device = places.pop("seed", 0), pick_device(places.pop("device", "auto"))
    derive(seed, "analyse")  # refuses what is no whole number
    out = places.pop("out", None)
    if places:
        raise FedMergeError(f"analyse has no option '{next(iter(places))}'.")
    begin = load_weights(Path(start)) if isinstance(start, str | Path) else start
    networks = _networks(models)
    check_split(split)
    if networks is not None:
        title, about = f"{len(networks)} models", ", ".join(networks)
        subject = Subject.of(networks, data, labels, start=begin, seed=seed).on(device)
    elif labels is not None or not isinstance(data, str | None) or isinstance(begin, nn.Module):
        raise FedMergeError("images, labels and networks in memory go with networks in memory: see data=.")
    elif len(given := [Path(str(path)) for path in models]) == 1 and is_folder(given[0]):
        own = {"--model": network is not None, "--data": data is not None}
        own["--normalisation"] = normalisation != DEFAULT
        if extra := [name for name, there in own.items() if there]:
            raise FedMergeError(
                f"{' and '.join(extra)}: a run has its own network and images: take it out, or give files."
            )
        title, about, subject = _of_run(given[0], split, images, begin, seed, device)
    else:
        pictures = None if data is None else FusionImages(data, split, images, True, normalisation)
        title, about, subject = _of_files(given, network, pictures, begin, seed, device)
    folder = new_folder("analysis", out) if networks is None or out is not None else None
    findings, left = diagnose(subject, names, options)
    found = Analysed(title, about, findings, left, folder)
    if folder is not None:
        _save(found, folder)
    return found


def _networks(models: object) -> dict[str, nn.Module] | None:
    """Return networks in memory by name; None where files or a run are given."""
    if isinstance(models, Mapping):
        return {str(name): model for name, model in models.items()}
    if isinstance(models, nn.Module | str | Path) or not isinstance(models, Sequence):
        raise FedMergeError(
            f"models= is one {type(models).__name__}: give a list of networks, of files, or of one run's "
            "folder."
        )
    if not models:
        raise FedMergeError("models= is empty: give a list of networks, of files, or of one run's folder.")
    if all(isinstance(model, str | Path) for model in models):
        return None
    return {f"model {place}": model for place, model in enumerate(models)}


def _of_run(
    folder: Path, split: str, images: int, start: State | None, seed: int, device: str
) -> tuple[str, str, Subject]:
    """Return the subject of a run: the pool of its first seed and federation."""
    if not (folder / "config.yaml").is_file():
        study = (folder / "study.yaml").is_file()
        reason = (
            "it is that of a study, so run one of its experiments with fedmerge run"
            if study
            else "it has no config.yaml"
        )
        raise FedMergeError(f"'{short(folder)}' is not the folder of a run: {reason}.")
    experiment, cohort = read_saved(folder / "config.yaml")
    pools = sorted(folder.glob("seed-*/*/pool"))
    if not pools:
        raise FedMergeError(
            f"the run in '{short(folder)}' has no models yet: finish it with fedmerge run --resume."
        )
    pool = ModelPool(pools[0], create=False)
    if len(pool) < 2:
        raise FedMergeError(
            f"the run in '{short(folder)}' keeps the models of {', '.join(pool.names) or 'nobody'} alone: an "
            "analysis compares two or more."
        )
    card = pool.card(pool.names[0])
    models = {name: pool.model(name, device) for name in pool.names}
    parts = {
        name: getattr(cohort[name], split) for name in pool.names if name in {s.name for s in cohort.sites}
    }
    looked, owners = _shares([parts.get(name) for name in pool.names], images)
    raw, inputs, seen_as = None if looked is None else looked.images, card.normalisation, None
    if owners is not None and raw is not None:
        each = [inputs.at(cohort[name]) if parts.get(name) else PLAIN for name in pool.names]
        seen_as = PerImage(tuple(each), owners)(raw)
    one = isinstance(inputs, Normalisation)  # what trains normalises all images alike
    subject = Subject.of(
        models,
        seen_as,
        None if looked is None else looked.labels,
        start=start, owners=owners, raw=raw if one else None, normalise=inputs if one else None, seed=seed,
        extra=_beside(pools[0].parent),
        blends=_batches(folder, pool.names),
    )  # fmt: skip
    where = f"{len(pool)} hospitals of {pools[0].parent.parent.name}"
    seen = "no images of theirs are here" if raw is None else f"{len(raw)} of their {split} images"
    return experiment.title or experiment.name, f"{where}, {seen}", subject


def _of_files(
    paths: Sequence[Path],
    network: str | None,
    data: FusionImages | None,
    start: State | None,
    seed: int,
    device: str,
) -> tuple[str, str, Subject]:
    if missing := [path for path in paths if not is_there(path)]:
        raise FedMergeError(f"there is no '{short(missing[0])}': name a run's folder, or files of weights.")
    if len(paths) < 2:
        raise FedMergeError(
            "give the folder of a run, or two files of weights or more: an analysis compares."
        )
    states, begin = alike([load_weights(path) for path in paths], start)
    names, cards = names_of(paths), [card_beside(path) for path in paths]
    check_cards([card for card in cards if card is not None])
    pool = None if data is None else images_of(data.source, data.split)
    spec = spec_of(network, cards[0], states[0], pool)
    if spec is None:
        raise FedMergeError("these files have no cards beside them: name their network with --model.")
    template = build(spec, seed=0).eval()
    if states[0].keys() != template.state_dict().keys():
        states, begin = [without_wrappers(state) for state in states], begin and without_wrappers(begin)
    check_alike((*names, "the network"), (*states, template.state_dict()))
    models = {n: fill(faithful(template), s).to(device) for n, s in zip(names, states, strict=True)}
    raw = None
    if data is not None and pool is not None:
        raw = drawn(pool, spec, cards[0], data.images, seed, data.normalisation)
    subject = Subject.of(
        models,
        None if raw is None else raw[1](raw[0].images),
        None if raw is None else raw[0].labels,
        raw=None if raw is None else raw[0].images, normalise=None if raw is None else raw[1],
        start=begin, seed=seed,
    )  # fmt: skip
    seen = "without images"
    if data is not None and raw is not None:
        seen = f"on {len(raw[0])} {data.split} images of {data.source}, {_normalised(raw[1])}"
    return f"{len(names)} models", f"{spec.name}: {', '.join(names)}, {seen}", subject


def _normalised(by: Normalisation) -> str:
    mean, deviation = (", ".join(f"{each:.3g}" for each in values) for values in (by.mean, by.std))
    return f"normalised by mean {mean} and deviation {deviation}"


def _shares(parts: Sequence[Split | None], images: int) -> tuple[Split | None, torch.Tensor | None]:
    """Return the first images of each hospital, of each as many as it has up to a like share; and owners."""
    here = [(index, part) for index, part in enumerate(parts) if part is not None and len(part)]
    if not here:
        return None, None
    each = max(1, images // len(here))
    few = [(index, part.select(torch.arange(min(each, len(part))))) for index, part in here]
    owners = torch.cat([torch.full((len(part),), index) for index, part in few])
    return concat([part for _, part in few]), owners


def _beside(folder: Path) -> dict[str, State]:
    """Return the fused models of the first target, and the pooled one, as they are named; not the mean."""
    found: dict[str, State] = {}
    for place in ("fused", "references"):
        for path in sorted(folder.glob(f"*/{place}")):
            pool = ModelPool(path, create=False)
            found |= {name: pool.state(name) for name in pool.names if name != "mean" and name not in found}
    return found


def _batches(folder: Path, names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the coefficients of the first batches of a test-time method, for encoder and head."""
    frame: pd.DataFrame = read_table(folder / "coefficients.parquet")
    if frame.empty:
        return {}
    first = frame.iloc[0]
    same = (frame[["seed", "site", "method", "stream"]] == first[["seed", "site", "method", "stream"]]).all(
        axis=1
    )
    found = {}
    for batch, rows in list(frame[same].groupby("batch", sort=True))[:MOST_BATCHES]:
        by = rows.set_index("source")[["encoder", "head"]].reindex(list(names)).fillna(0.0)
        found[f"{first['method']} {batch}"] = (by["encoder"].tolist(), by["head"].tolist())
    return found


def _save(found: Analysed, folder: Path) -> None:
    for name, finding in found.findings.items():
        for table, frame in finding.tables.items():
            stem = name if table == name else f"{name}-{table}"
            for kind in ("csv", "parquet"):
                write_table(folder / f"{stem}.{kind}", frame)
        if finding.arrays:
            write(folder / f"{name}.npz", partial(_save_arrays, finding.arrays))
    said = {
        "about": found.about,
        "answer": found.answer,
        "findings": {
            name: {"sentence": each.sentence, "number": each.number if isfinite(each.number) else None}
            for name, each in found.findings.items()
        },
        "left out": found.left,
    }
    write_json(folder / "findings.json", said)


def _save_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
