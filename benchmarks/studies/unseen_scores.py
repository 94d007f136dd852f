"""The scores of the study on unseen hospitals: kept rows, cells left out, averages by hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.pages import DIGITS
from fedmerge.analysis import leaderboard
from fedmerge.analysis.paired_tests import paired_tests
from fedmerge.analysis.source_choice import source_choice
from fedmerge.errors import FedMergeError
from fedmerge.experiment.formatting import listing
from fedmerge.workflows.bench.study import open_study

FEDERATED, MEAN, ENSEMBLE = "federated", "mean", "ensemble-logits"
DEFAULT, FIRST_DEFAULT = "stream-adaptive", "first-default"
REFERENCES = (MEAN, FEDERATED, ENSEMBLE)
"""What the default has to be above: the three tests of the headline."""
METRIC = "balanced_accuracy"
SCORES = [METRIC, "auroc", "accuracy", "ece", "constant", "forward_passes", "backward_passes", "seconds", "n"]
COHORTS = {
    "wbc4": "blood cells",
    "melanoma4": "melanoma",
    "pacs": "PACS",
    "digits": "digits",
    "pneumonia": "pneumonia",
    "tinyimagenet": "Tiny ImageNet",
    "digits-small": "digits, from scratch",
    "pneumonia-small": "pneumonia, from scratch",
    "digits-pretrained": "digits, pretrained",
    "pneumonia-pretrained": "pneumonia, pretrained",
}


class Part(NamedTuple):
    """One cohort of a study: its rows where the axes have these values."""

    study: str
    cohort: str
    where: tuple[tuple[str, str], ...] = ()


REAL = ("wbc4", "melanoma4", "pacs")
"""The cohorts of the headlines: real hospitals, or styles."""
FIRST = tuple(Part(f"bench-unseen-{name}", name) for name in REAL)
DEVELOPMENT = tuple(Part(f"bench-unseen-{name}", name) for name in ("digits", "pneumonia", "tinyimagenet"))
SECOND_DEVELOPMENT = tuple(
    Part(f"bench-unseen-second-{name}", f"{name}-{network}", (("network", network),))
    for network in ("small", "pretrained")
    for name in ("digits", "pneumonia")
)
AGAIN = tuple(Part("bench-unseen-again", name, (("data", name),)) for name in REAL)
SCRATCH, GROUP = (
    tuple(Part("bench-unseen-scratch", name, (("data", name), ("norm", norm))) for name in REAL)
    for norm in ("batch-norm", "group-norm")
)
TRANSFORMER = tuple(Part("bench-unseen-vit", name, (("data", name),)) for name in ("wbc4", "pacs"))
BATCHES = {
    size: (Part("bench-unseen-batches", "digits", (("batch_size", size),)),)
    for size in ("1", "4", "16", "64", "long")
}
"""The parts of each size of a batch; ``long``: batches of 64, up to 2,000 images."""
PLACE = ["cohort", "seed", "site"]


@dataclass(frozen=True)
class Seen:
    """Rows of finished measurements, and what coefficients chose (``analysis.source_choice``).

    A site's name holds its cohort's. Rows of all cells; ``working`` leaves out those that the protocol does.
    """

    rows: pd.DataFrame
    choice: pd.DataFrame

    def of(self, *cohorts: str) -> Seen:
        """Return the rows of these cohorts."""
        return Seen(*(table[table["cohort"].isin(cohorts)] for table in (self.rows, self.choice)))

    @cached_property
    def cohorts(self) -> list[str]:
        """The cohorts there are, in the protocol's order."""
        there = set(self.rows["cohort"])
        return [name for name in COHORTS if name in there]

    @cached_property
    def working(self) -> Seen:
        """Return the rows at hospitals and seeds whose shared models work, of cohorts where most do."""
        keep = ~place_of(self.rows).isin(broken(self.rows)) & ~self.rows["cohort"].isin(failed(self.rows))
        return replace(self, rows=self.rows[keep])


def place_of(rows: pd.DataFrame) -> pd.Series:
    """Name the cohort, seed and site of each row."""
    cohort, seed, site = (rows[name].astype(str) for name in PLACE)
    named: pd.Series = cohort + " " + seed + " " + site
    return named


def broken(rows: pd.DataFrame) -> set[str]:
    """Return the places where the federated model or the mean gives every image one class."""
    shared = rows[rows["method"].isin((FEDERATED, MEAN)) & (rows["constant"].astype(float) > 0)]
    return set(place_of(shared))


def failed(rows: pd.DataFrame) -> set[str]:
    """Return the cohorts of which more than half of the places are broken: training failed there."""
    places = rows[PLACE].drop_duplicates()
    share = place_of(places).isin(broken(rows)).groupby(places["cohort"]).mean()
    return set(share.index[share > 0.5])


def keep(folder: Path, results: Path) -> None:
    """Write a finished study's scores as CSV into ``results``, and what its coefficients chose.

    Rows of its levels and seeds take the place of those that are there; rows of others stay. What
    coefficients chose is known where each hospital was measured alone.
    """
    study = open_study(folder)
    results.mkdir(parents=True, exist_ok=True)
    cells = [*study.config.axes, "seed"]
    kept = study.done[[*cells, "site", "stream", "method", *SCORES]]
    _write(kept, results / f"{study.config.name}.csv", cells)
    if not kept["method"].str.startswith("alone:").any():
        return
    coefficients = pd.read_parquet(folder / "coefficients.parquet")
    chosen = source_choice(coefficients, study.done, METRIC, within=[*study.config.axes])
    chosen = chosen.drop(columns=["cohort", "model"], errors="ignore")
    _write(chosen, choice_file(results, study.config.name), cells)


def _write(rows: pd.DataFrame, file: Path, cells: list[str]) -> None:
    """Write rows as CSV, after those of the file's other cells."""
    if file.is_file():
        there = pd.read_csv(file)
        named, new = (table[cells].astype(str).agg(" ".join, axis=1) for table in (there, rows))
        rows = pd.concat([there[~named.isin(set(new))], rows], ignore_index=True)
    rows.to_csv(file, index=False, float_format=f"%{DIGITS}", lineterminator="\n")


def choice_file(results: Path, study: str) -> Path:
    """Where a study's choices are."""
    return results / f"{study}-choice.csv"


def read(results: Path, parts: Sequence[Part] = (*FIRST, *DEVELOPMENT)) -> Seen:
    """Read what ``keep`` wrote of the parts that ran. Raises FedMergeError where there is none."""
    rows, choice = [], []
    for part in parts:
        if not (results / f"{part.study}.csv").is_file():
            continue
        files = (rows, results / f"{part.study}.csv"), (choice, choice_file(results, part.study))
        for table, file in files:
            if not file.is_file():
                continue
            read_in = pd.read_csv(file)
            for axis, value in part.where:
                read_in = read_in[read_in[axis].astype(str) == value]
            read_in = read_in.assign(cohort=part.cohort, site=part.cohort + " " + read_in["site"])
            table.append(read_in.drop_duplicates([*PLACE, "stream", "method"]))
    if not rows:
        names = listing(list(dict.fromkeys(part.study for part in parts)))
        raise FedMergeError(f"'{results}' has no scores of {names}: give the folders of their runs first.")
    table = pd.concat(rows, ignore_index=True)
    table = table[~table["method"].str.startswith("alone:")]
    chosen = pd.concat(choice, ignore_index=True) if choice else pd.DataFrame(columns=[*PLACE, "method"])
    return Seen(table.assign(status="done", severity=0), chosen)


def seeds_as_one(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: cohorts have different ones, so a seed's mean would be that of its cohorts.

    Intervals then speak for other hospitals, with the seeds that there are.
    """
    means = rows.groupby(["cohort", "site", "stream", "method"], sort=False).mean(numeric_only=True)
    return means.reset_index().assign(seed=0, status="done", severity=0)


def board(seen: Seen, reference: str | None = None, metric: str = METRIC) -> pd.DataFrame:
    """Return the leaderboard of the working cells by method; hospitals count alike."""
    return leaderboard(seeds_as_one(seen.working.rows), "method", reference, metric).set_index("level")


def average(seen: Seen) -> pd.DataFrame:
    """Return the balanced accuracy by method (rows) and cohort: streams and seeds first, then hospitals.

    The column ``average`` is the mean of the cohorts; NaN where a method was not run everywhere.
    """
    rows = seen.working.rows
    sites = rows.groupby(["method", "cohort", "site"], sort=False)[METRIC].mean()
    table = sites.groupby(["method", "cohort"], sort=False).mean().unstack("cohort")
    table = table[[name for name in seen.working.cohorts if name in table]]
    return table.assign(average=table.mean(axis=1, skipna=False))


def against(seen: Seen, method: str, reference: str) -> pd.Series:
    """Return differences by hospital and stream, averaged over the seeds in which both were measured."""
    keys = ["site", "stream", "seed"]
    rows = seen.working.rows
    first, second = (rows[rows["method"] == name].set_index(keys)[METRIC] for name in (method, reference))
    found: pd.Series = (first - second).dropna().groupby(["site", "stream"], sort=False).mean()
    return found


def random_signs(seen: Seen, reference: str, levels: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the paired tests of these levels, or of all methods, against the reference, by level."""
    rows = seen.working.rows
    rows = rows[~rows["method"].isin(["majority-class", "oracle-best-source"])]
    if levels is not None:
        rows = rows[rows["method"].isin([*levels, reference])]
    return paired_tests(rows, reference, metric=METRIC).set_index("level")


def sources_of(cohort: str, seen: Seen) -> int:
    """Return how many hospitals a cohort's ensemble has: its forward passes."""
    rows = seen.of(cohort).rows
    return round(float(rows[rows["method"] == ENSEMBLE]["forward_passes"].mean()))


def cost(seen: Seen) -> pd.Series:
    """Return each method's forward passes a batch as a share of M + 1, averaged over cohorts."""
    rows = seen.working.rows
    whole = rows["cohort"].map({cohort: sources_of(cohort, seen) + 1 for cohort in seen.working.cohorts})
    shares: pd.Series = (rows["forward_passes"] / whole).groupby(rows["method"], sort=False).mean()
    return shares
