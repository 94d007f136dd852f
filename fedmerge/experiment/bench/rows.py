"""The table of a study: the rows of all finished jobs, in the plan's order, each once."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from fedmerge.analysis import METRICS
from fedmerge.experiment import results
from fedmerge.experiment.bench.config import BenchConfig
from fedmerge.experiment.bench.plan import Entry, Plan
from fedmerge.experiment.bench.store import Store, said
from fedmerge.experiment.results import write_table
from fedmerge.experiment.target_supervised import ORACLE, best_source

Row = dict[str, Any]


def columns(config: BenchConfig) -> list[str]:
    """The columns of results.parquet, in order."""
    of_runs = results.columns(METRICS.among(config.plugins))
    axes = [axis for axis in config.axes if axis not in of_runs]
    rest = [column for column in of_runs if column != "experiment"]
    middle = rest.index("seed")
    before = ["study", "job", "status", "reason", *rest[:middle], *axes]
    return [*before, *rest[middle:], "training_seconds"]


def collect(config: BenchConfig, plan: Plan, store: Store) -> None:
    """Write results.parquet and reliability.parquet from the finished jobs; each file whole or not at all."""
    rows: list[Row] = []
    bins: list[Row] = []
    states = store.states(plan.jobs)
    read: dict[str, tuple[Row, list[Row], list[Row]]] = {}
    for entry in plan.entries:
        if entry.job not in read:
            read[entry.job] = _of(store, plan, entry, states)
        common, measured, binned = read[entry.job]
        if entry.columns["kind"] == ORACLE:
            measured, binned = best_source(measured, binned)
        place = {"study": config.name, "job": entry.job} | entry.columns | common
        rows += [place | row | _label(entry, row) for row in measured]
        where = {key: value for key, value in entry.columns.items() if key != "kind"}
        bins += [where | row | _label(entry, row) for row in binned]
    table = pd.DataFrame(rows).reindex(columns=columns(config))
    numbers = [name for name in [*METRICS.names(), *results.NUMBERS] if name in table]
    table[numbers] = table[numbers].astype("float64")
    table["constant"] = table["constant"].astype("boolean")
    with said(store.folder):
        write_table(store.folder / "results.parquet", table)
        write_table(store.folder / "reliability.parquet", pd.DataFrame(bins))


def _of(store: Store, plan: Plan, entry: Entry, states: dict[str, Any]) -> tuple[Row, list[Row], list[Row]]:
    """Return what a job left: the columns common to its rows, its rows, its calibration bins."""
    if states.get(entry.job) in ("done", "dropped"):
        job = store.read(entry.job, "job.json")
        common = {
            "status": "done",
            "reason": "",
            "device": job["device"],
            "versions": json.dumps(job["versions"]),
            "config_hash": entry.job,
            "training_seconds": job["training_seconds"],
        }
        return common, store.read(entry.job, "rows.json"), store.read(entry.job, "bins.json")
    for job in (entry.job, *plan.needing([entry.job])):
        if states.get(job) == "failed":
            reason = store.read(job, "job.json")["reason"]
            if job != entry.job:
                reason = f"what it stands on failed ({plan.jobs[job].label}): {reason}"
            failed = {"stream": "", "shift": "none", "severity": 0, "n": 0}
            return {"status": "failed", "reason": reason, "config_hash": entry.job}, [failed], []
    return {}, [], []


def _label(entry: Entry, row: Row) -> Row:
    """Return the method's label in this study; a job's own rows do not know it."""
    if row.get("kind") == "alone":
        return {"method": row["method"]}
    return {"method": entry.columns["method"]}
