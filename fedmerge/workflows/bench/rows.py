"""The table of a study: the rows of all finished jobs, in the plan's order, each once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fedmerge.analysis import METRICS
from fedmerge.engine.store import Store, said
from fedmerge.experiment.folder import results
from fedmerge.experiment.folder.results import write_table
from fedmerge.experiment.kinds import COEFFICIENTS
from fedmerge.experiment.stages.evaluation import FINDING
from fedmerge.experiment.target_supervised import ORACLE, best_source
from fedmerge.tasks import MULTICLASS, TASKS
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.plan import Entry, StudyPlan

Row = dict[str, Any]
Read = tuple[Row, list[Row], list[Row]]


def columns(config: BenchConfig, rows: Sequence[Row] = ()) -> list[str]:
    """The columns of results.parquet, in order. rows: of tasks, which have columns of their own."""
    tasks = [TASKS[name] for name in dict.fromkeys(row.get("task", MULTICLASS.name) for row in rows)]
    of_runs = results.columns(METRICS.among(config.plugins), tasks or (MULTICLASS,))
    of_runs += dict.fromkeys(name for row in rows for name in row if name.startswith(FINDING))
    axes = [axis for axis in config.axes if axis not in of_runs]
    rest = [column for column in of_runs if column != "experiment"]
    middle = rest.index("seed")
    before = ["study", "job", "status", "reason", *rest[:middle], *axes]
    return [*before, *rest[middle:], "training_seconds"]


def collect(config: BenchConfig, plan: StudyPlan, store: Store) -> None:
    """Write results.parquet and reliability.parquet from the finished jobs; each file whole or not at all."""
    rows: list[Row] = []
    bins: list[Row] = []
    states = store.states(plan.tasks)
    read: dict[str, Read] = {}
    for entry in plan.entries:
        if entry.task not in read:
            read[entry.task] = read_job(store, plan, entry, states)
        added = labelled(config, entry, read[entry.task])
        rows += added[0]
        bins += added[1]
    table = pd.DataFrame(rows).reindex(columns=columns(config, rows))
    numbers = [name for name in [*METRICS.names(), *results.NUMBERS] if name in table]
    table[numbers] = table[numbers].astype("float64")
    table["constant"] = table["constant"].astype("boolean")
    with said(store.folder):
        write_table(store.folder / "results.parquet", table)
        write_table(store.folder / "reliability.parquet", pd.DataFrame(bins))


def collect_traces(config: BenchConfig, plan: StudyPlan, store: Store) -> None:
    """Write coefficients.parquet, a row a batch and source, and decisions.parquet, from the finished jobs."""
    coefficients, decisions = [], list[Row]()
    states = store.states(plan.tasks)
    for entry in plan.entries:
        if states[entry.task] not in ("done", "dropped"):
            continue
        where = {key: value for key, value in entry.columns.items() if key != "kind"}
        path = store.jobs / entry.task / COEFFICIENTS
        if path.is_file():
            coefficients.append(pd.read_parquet(path).assign(**where))
        decisions += [row | where for row in store.read(entry.task, "job.json").get("decisions", [])]
    axes = [axis for axis in config.axes if axis not in results.columns()]
    place = ["cohort", "model", *axes, "seed", "site", "method"]
    first = [*place, "stream", "batch", "source", "encoder", "head"]
    with said(store.folder):
        frame = pd.concat(coefficients) if coefficients else pd.DataFrame()
        write_table(store.folder / COEFFICIENTS, frame.reindex(columns=first))
        frame = pd.DataFrame(decisions)
        more = [column for column in frame.columns if column not in place]
        write_table(store.folder / "decisions.parquet", frame.reindex(columns=[*place, *more]))


def labelled(config: BenchConfig, entry: Entry, read: Read) -> tuple[list[Row], list[Row]]:
    """Return the rows and the calibration bins of an entry, as they stand in the study's tables."""
    common, measured, binned = read
    if entry.columns["kind"] == ORACLE:
        task = next((row["task"] for row in measured if "task" in row), MULTICLASS.name)
        measured, binned = best_source(measured, binned, TASKS[task].headline)
    place = {"study": config.name, "job": entry.task} | entry.columns | common
    where = {key: value for key, value in entry.columns.items() if key != "kind"}
    return (
        [place | row | _label(entry, row) for row in measured],
        [where | row | _label(entry, row) for row in binned],
    )


def read_job(store: Store, plan: StudyPlan, entry: Entry, states: Mapping[str, Any]) -> Read:
    """Return what a job left: the columns common to its rows, its rows, its calibration bins."""
    if states.get(entry.task) in ("done", "dropped"):
        job = store.read(entry.task, "job.json")
        common = {
            "status": "done",
            "reason": "",
            "device": job["device"],
            "versions": json.dumps(job["versions"]),
            "config_hash": entry.task,
            "training_seconds": job["training_seconds"],
        }
        return common, store.read(entry.task, "rows.json"), store.read(entry.task, "bins.json")
    for job in (entry.task, *plan.needing([entry.task])):
        if states.get(job) == "failed":
            reason = store.read(job, "job.json")["reason"]
            if job != entry.task:
                reason = f"what it stands on failed ({plan.tasks[job].label}): {reason}"
            failed = {"stream": "", "shift": "none", "severity": 0, "n": 0}
            return {"status": "failed", "reason": reason, "config_hash": entry.task}, [failed], []
    return {}, [], []


def _label(entry: Entry, row: Row) -> Row:
    """Return the method's label in this study; a job's own rows do not know it."""
    if row.get("kind") == "alone":
        return {"method": row["method"]}
    return {"method": entry.columns["method"]}
