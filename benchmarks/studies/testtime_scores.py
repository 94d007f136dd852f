"""The scores of the test-time studies, side by side: one table, targets of different studies kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.pages import as_saved
from benchmarks.studies.one_class import judged
from fedmerge.analysis import leaderboard
from fedmerge.errors import FedMergeError
from fedmerge.workflows.bench.study import Study, open_study

MEAN, ENSEMBLE, PAPER, OURS = "mean", "ensemble-logits", "entropy-adaptive", "stream-adaptive"
TUNED = f"{OURS}-tuned"
SCORES = ["accuracy", "balanced_accuracy", "auroc", "ece", "forward_passes", "backward_passes"]
STREAMS = {
    "iid": "i.i.d.",
    "dirichlet-0.5": "Dirichlet 0.5",
    "dirichlet-0.05": "Dirichlet 0.05",
    "temporal": "temporal",
}


def is_choice(label: str) -> bool:
    """Whether a label is that of the node with one choice changed, or with a probe."""
    return "-probe-" in label or (label.startswith(f"{OURS}-") and label != TUNED)


def base_of(choice: str) -> str:
    """The node that a choice changes."""
    return PAPER if choice.startswith(PAPER) else OURS


class Seen(NamedTuple):
    """The studies by name, and all finished rows: ``bench`` names the study, sites' names hold it, too."""

    studies: dict[str, Study]
    rows: pd.DataFrame

    @property
    def benches(self) -> list[str]:
        return list(self.studies)

    def of(self, **where: str) -> Seen:
        """The rows with these values."""
        rows = self.rows
        for name, value in where.items():
            rows = rows[rows[name] == value]
        return self._replace(rows=rows)

    def rows_of(self, *methods: str) -> pd.DataFrame:
        """The rows of these methods."""
        return self.rows[self.rows["method"].isin(methods)]

    def methods(self, choices: bool = False) -> list[str]:
        """The labels that every study has, or with ``choices`` those of other choices that some has."""
        there = [method for method in self.rows["method"].unique() if choices == is_choice(method)]
        return there if choices else [method for method in there if self.everywhere(method)]

    def everywhere(self, method: str) -> bool:
        """Whether every study has a method."""
        return self.rows[self.rows["method"] == method]["bench"].nunique() == self.rows["bench"].nunique()


def look_at(folders: Mapping[str, Path]) -> Seen:
    """Read the studies' folders. Raises FedMergeError for one without mean merging."""
    return seen_of({name: open_study(folder) for name, folder in folders.items()})


def seen_of(studies: dict[str, Study]) -> Seen:
    """The studies' scores without hospitals alone. Raises FedMergeError for one without mean merging."""
    frames = []
    studies = {name: judged(as_saved(study, SCORES)) for name, study in studies.items()}
    for name, study in studies.items():
        rows = study.done[study.done["kind"] != "alone"]
        if not {MEAN, ENSEMBLE} <= set(rows["method"]):
            raise FedMergeError(f"the study in '{study.folder}' lacks '{MEAN}' or '{ENSEMBLE}'.")
        frames.append(rows.assign(bench=name, site=name + " " + rows["site"]))
    return Seen(studies, pd.concat(frames, ignore_index=True))


def board(seen: Seen, reference: str) -> pd.DataFrame:
    """The leaderboard over all targets, seeds and streams there are, by level; every target counts alike."""
    known = reference if reference in set(seen.rows["method"]) else None
    return leaderboard(seen.rows, "method", known).set_index("level")


def data_as_sites(seen: Seen) -> Seen:
    """Make each data set a site and its targets streams, so that intervals speak for other data sets."""
    streams = seen.rows["site"] + " " + seen.rows["stream"]
    return seen._replace(rows=seen.rows.assign(site=seen.rows["bench"], stream=streams))


def cells(seen: Seen, method: str, reference: str) -> pd.Series:
    """Return differences in accuracy by target and stream, averaged over seeds, where both methods ran."""
    keys = ["site", "stream", "seed"]
    first, second = (
        seen.rows[seen.rows["method"] == name].set_index(keys)["accuracy"] for name in (method, reference)
    )
    found: pd.Series = (first - second).dropna().groupby(["site", "stream"], sort=False).mean()
    return found
