"""The result of a run: a typed value, its tables, and the files in its folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fedmerge.analysis import METRICS, Answers, learning, ranking_metric
from fedmerge.analysis.metrics import Metric
from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.folder.reopen import read_mapping, read_saved, read_table
from fedmerge.experiment.folder.state import state_of
from fedmerge.experiment.kinds import KINDS, MAJORITY
from fedmerge.experiment.summary.summary import answer, mean_label, receiver
from fedmerge.storage.files import write, write_json, write_text
from fedmerge.storage.manifest import warnings
from fedmerge.tasks import MULTICLASS, Task

BEFORE = [
    "experiment",
    "cohort",
    "model",
    "seed",
    "site",
    "stream",
    "shift",
    "severity",
    "method",
    "kind",
    "n",
]
AFTER = [
    *(field.name for field in fields(Answers)),
    "validation",
    "training_accuracy",
    "initial_statistics",
    "forward_passes",
    "backward_passes",
    "seconds",
    "device",
    "versions",
    "config_hash",
]
NUMBERS = [
    "classes_present", "largest_class", "classes_predicted", "largest_predicted", "chance_error",
    "validation", "training_accuracy", "initial_statistics", "forward_passes", "backward_passes",
    "seconds", "training_seconds",
]  # fmt: skip
"""Columns of numbers besides the metrics, of runs and studies."""
WALL_CLOCK = {"results": ["seconds"], "history": ["seconds"]}
"""Columns of times, by table: all other columns are the same in every run of the same experiment."""


@dataclass(frozen=True)
class Result:
    """The outcome of one experiment.

    table: one row per method x unseen site x stream x seed (see ``columns``); ``kind`` is one of ``KINDS``;
    a hospital alone is the method ``alone:NAME``; ``constant`` says that every image got one class (see
    ``analysis.Answers``); training_accuracy and initial_statistics are of the models behind the row.
    history: one row per seed, federation, round, phase (``train``, ``validate``, ``fine-tune``) and
    hospital. coefficients: one row per seed, site, method, stream, batch and source, with columns ``encoder``
    and ``head``. decisions: the fusion methods' logs.
    failures: hospitals and methods that failed, with the reason and what was done then, and all that fault
    injection did. reliability: one row per seed, site, method, stream and confidence bin (see
    ``analysis.reliability``). diagnosis: the tables of ``analysis.diagnosis``, one below the other
    (``analysis.diagnosis.rows``). cohort: that of the first seed.
    provenance: versions, device, threads, hashes, the command that repeats the run, and when it was resumed.
    remarks: sentences about the hospitals' images (``data.checks``) and about a run that was resumed.
    """

    experiment: Experiment
    cohort: Cohort
    table: pd.DataFrame
    history: pd.DataFrame
    coefficients: pd.DataFrame
    decisions: pd.DataFrame
    failures: pd.DataFrame
    provenance: dict[str, Any]
    folder: Path
    reliability: pd.DataFrame | None = None
    diagnosis: pd.DataFrame | None = None
    remarks: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many methods failed at a site and seed, and so have no row; 0: every row is there.

        A hospital that fails in a round is left out of that round; this is no failure of the run. Nor is it
        one that pooled training fails where hospitals keep their images.
        """
        entries = (*self.experiment.fusion, *self.experiment.testtime)
        known = {MAJORITY, *(entry.label for entry in entries)}
        if not any(site.remote for site in self.cohort.sites):
            known.add("pooled")
        where = map(str, self.failures["where"] if len(self.failures) else ())
        return sum(each in known or each.startswith("alone:") for each in where)

    def summary(self) -> pd.DataFrame:
        """Scores by method, averaged over unseen sites, then over seeds.

        Columns: ``kind``, accuracy (or the task's ``headline``) on each stream (by the stream's name), then
        the other metrics averaged over the streams, forward_passes, ``interval``: the half-width of the 95 %
        t interval of the mean accuracy over seeds (NaN for fewer than two seeds); ``constant``: the share of
        measurements in which every image got one class (NaN where an older run did not say); ``learned`` and
        ``worth``: whether it is above chance, and may be called best (``analysis.learning``). Best first
        within a kind, by ``metric``.
        """
        return summarise(self.table, self.headline, by=self.metric)

    @property
    def headline(self) -> str:
        """The score that tables and figures show first: accuracy, or the cohort's task's own."""
        return self.cohort.task.headline

    @property
    def metric(self) -> str:
        """The score that methods are ranked by: accuracy, or balanced_accuracy where classes are uneven.

        An experiment that selects by balanced accuracy is ranked by it, too, and one whose cohort has another
        task than multiclass by what it selects by.
        """
        chosen = self.experiment.selection
        plain = chosen == "accuracy" and self.cohort.task is MULTICLASS
        return ranking_metric(self.table, "auto" if plain else chosen)

    @property
    def answer(self) -> str:
        """The result in a sentence or two."""
        experiment = self.experiment
        return answer(self.table, mean_label(experiment), receiver(experiment), self.metric)

    def save(self) -> None:
        """Write results.parquet and .csv, the logs and the provenance into the run's folder."""
        tables = {
            "results.parquet": self.table,
            "results.csv": self.table,
            "reliability.parquet": self.reliability,
            "diagnosis.parquet": None if self.diagnosis is None or self.diagnosis.empty else self.diagnosis,
            "history.csv": self.history,
            "coefficients.parquet": self.coefficients,
            "decisions.json": self.decisions,
            "failures.json": self.failures,
        }
        for name, frame in tables.items():
            if frame is not None:
                write_table(self.folder / name, frame)
        write_json(self.folder / "provenance.json", self.provenance)


def columns(metrics: Sequence[Metric] | None = None, tasks: Sequence[Task] = (MULTICLASS,)) -> list[str]:
    """Return the columns of results.parquet with these metrics, in order; None: with all.

    tasks: of the rows; of another than multiclass, a column says it. Scores of single findings come after
    them.
    """
    chosen = list(METRICS) if metrics is None else metrics
    fit = [metric for metric in chosen if any(task.name in metric.tasks for task in tasks)]
    said = [] if list(tasks) == [MULTICLASS] else ["task"]
    own = [column for metric in fit for column in (metric.name, *metric.beside)]
    return [*BEFORE, *own, *AFTER, *said]


def summary_metrics(headline: str = "accuracy") -> list[str]:
    """Return the metrics in a run's tables beside the headline, which has a column for each stream."""
    return [metric.name for metric in METRICS if metric.name != headline and metric.scale.short is not None]


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as .parquet, .csv or .json, by its name, whole or not at all. Raises DiskError."""
    if path.suffix == ".parquet":
        write(path, lambda part: frame.to_parquet(part, index=False))
    elif path.suffix == ".csv":
        plain = frame.map(_no_formula)
        write(path, lambda part: plain.to_csv(part, index=False))
    else:
        write_text(path, frame.to_json(orient="records", indent=1) + "\n")


def _no_formula(cell: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would take for a formula; return all else as it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def summarise(table: pd.DataFrame, score: str = "accuracy", by: str | None = None) -> pd.DataFrame:
    """Summarise a results table; see ``Result.summary``. Images under a scanner shift are left out.

    score: the score of the streams' columns and the interval. by: the score that ranks, by default the same.
    """
    table = table[table["severity"] == 0] if "severity" in table else table
    by = by or score
    by_seed = (
        table.groupby(["method", "seed", "stream"], sort=False)[[*dict.fromkeys((score, by))]]
        .mean()
        .reset_index()
    )
    streams = list(dict.fromkeys(table["stream"]))
    scores = by_seed.groupby(["method", "stream"], sort=False)[score].mean().unstack("stream")[streams]
    beside = [name for name in (*METRICS.names(), "forward_passes") if name in table and name != score]
    rest = table.groupby("method", sort=False)[beside].mean()
    means = by_seed.groupby(["method", "seed"])[score].mean()
    interval = means.groupby("method").apply(_half_width)
    kinds = table.groupby("method", sort=False)["kind"].first()
    known = learning(table, metric=by)[["constant", "learned", "worth"]]
    summary = pd.concat([kinds, scores, rest, interval.rename("interval"), known], axis=1)
    rank = by_seed.groupby(["method", "stream"])[by].mean().groupby("method").mean()
    order = pd.DataFrame({"kind": summary["kind"].map(KINDS.index), "rank": -rank.reindex(summary.index)})
    return summary.loc[order.sort_values(["kind", "rank"], kind="stable").index]


def _half_width(values: pd.Series) -> float:
    n = len(values)
    if n < 2:
        return float("nan")
    from scipy.special import stdtrit  # slow to import, and seldom needed

    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / n**0.5)


def open_checked(folder: Path) -> Result:
    """``open_result``, with remarks that begin with each file that is not as the run wrote it."""
    found = warnings(folder)
    try:
        result = open_result(folder)
    except FedMergeError as error:
        raise FedMergeError(*error.args, *found) from None
    return replace(result, remarks=(*found, *result.remarks))


def open_result(folder: str | Path) -> Result:
    """Read a run from its folder: the counterpart of ``Result.save``.

    The cohort is built again from config.yaml; where its data are no longer on this machine, its sites
    hold no images. Raises FedMergeError where the folder is not a run's, or a file in it cannot be read.
    """
    folder = Path(folder)
    if (folder / "run.json").is_file() and not (folder / "results.parquet").is_file():
        found = state_of(folder)
        how = f" ({found.words})" if found else ""
        raise FedMergeError(
            f"the run in '{folder}' is not finished{how} and has no tables yet: fedmerge run --resume "
            f"{shlex.quote(str(folder))} goes on with it."
        )
    if not (folder / "results.parquet").is_file() or not (folder / "config.yaml").is_file():
        raise FedMergeError(
            f"'{folder}' is not the folder of a run: it has no results.parquet and config.yaml."
        )
    experiment, cohort = read_saved(folder / "config.yaml")
    provenance = read_mapping(folder / "provenance.json")
    return Result(
        experiment=experiment,
        cohort=cohort,
        folder=folder,
        table=read_table(folder / "results.parquet"),
        history=read_table(folder / "history.csv"),
        coefficients=read_table(folder / "coefficients.parquet"),
        decisions=read_table(folder / "decisions.json"),
        failures=read_table(folder / "failures.json"),
        provenance=provenance,
        remarks=tuple(provenance.get("remarks", ())),
        reliability=read_table(folder / "reliability.parquet"),
        diagnosis=read_table(folder / "diagnosis.parquet"),
    )
