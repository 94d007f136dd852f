"""Read back a run's folder: its configuration, its hospitals, its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fedmerge.data import Cohort, CohortSpec, Site, Split, build_cohort
from fedmerge.data.sources.medmnist import no_downloads
from fedmerge.data.sources.sources import parse_source
from fedmerge.errors import Faults, FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.plugged import plug_in
from fedmerge.experiment.configuration.reading import read_experiment, sources_of_run
from fedmerge.schema.validation import load_yaml
from fedmerge.storage.outside import check_table, read_json
from fedmerge.tasks import TASKS

NAMES = {"site": str, "federation": str}
"""Columns of text: a hospital named 007 keeps its zeros."""


def read_saved(path: Path) -> tuple[Experiment, Cohort]:
    """Read the experiment of a run, and its cohort with the first seed.

    Where the cohort's data are no longer on this machine, or were arrays in memory, its sites hold no
    images. Nothing is downloaded.
    """
    data, faults = load_yaml(path), Faults()
    plug_in(data, path.parent, (), faults)
    faults.say()
    cohort = data.get("cohort")
    if isinstance(cohort, dict):
        for part in (cohort, *cohort.get("sites", ())):
            if isinstance(part, dict) and isinstance(source := part.get("source"), str):
                part["source"] = _readable(source)
    experiment, spec = read_experiment(data)
    spec._folder = sources_of_run(path)
    try:
        with no_downloads():
            return experiment, build_cohort(spec, experiment.seeds[0])
    except FedMergeError:
        return experiment, without_images(spec)


def without_images(spec: CohortSpec) -> Cohort:
    """Return the cohort with the names of its sites, but without images."""
    nothing = Split(torch.empty(0, 1, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    sites = [
        Site(
            name=site.name,
            source=str(spec.source_of(site)),
            train=nothing,
            val=nothing,
            test=nothing,
            class_names=spec.classes or (),
            unseen=site.unseen,
            scanner=site.scanner,
            task=TASKS[spec.task],
        )
        for site in spec.sites
    ]
    return Cohort(spec.name, spec.title or spec.name, tuple(sites))


def read_table(path: Path) -> pd.DataFrame:
    """Read a saved table; empty where the run left none. Raises FedMergeError for a damaged file."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=NAMES)
        if path.suffix == ".json":
            return pd.DataFrame(read_json(path))
        check_table(path)
        return pd.read_parquet(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise FedMergeError(f"{path} cannot be read ({error}): the run has to be done again.") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a saved JSON mapping; empty where the run left none. Raises FedMergeError for a damaged file."""
    data = read_json(path) if path.is_file() else {}
    return data if isinstance(data, dict) else {}


def _readable(source: str) -> str:
    """Return a source as written; arrays that were in memory become a file that does not exist."""
    try:
        parse_source(source)
    except FedMergeError:
        return f"npz:{source}"
    return source
