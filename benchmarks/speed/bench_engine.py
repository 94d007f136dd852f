"""Measure what the study engine costs, and whether a killed study ends with the same rows.

overhead: wall time of a study of real jobs minus the jobs' own time, relative to it. resume: seconds of
`fedmerge bench` on a study of 1,000 finished jobs, start of the program included. report: seconds of
`fedmerge report` on a study of 100,000 rows, likewise. kill: a study killed at 20 random moments and started
again must end with the rows of one that was not, each once. packing: 24 trainings of some twenty seconds, and
the 48 short jobs that follow, on Ray with two workers: the time from the first start to the last end, that of
the workers included, relative to half of the jobs' own seconds. Run `python -m
benchmarks.speed.bench_engine`; `--only resume` for one of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.engine.store import Store
from fedmerge.storage.files import write_text
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.plan import make_plan
from fedmerge.workflows.bench.rows import collect
from fedmerge.workflows.bench.study import adopt, open_study
from fedmerge.workflows.bench.variants import read_bench

CLOCKS = ["seconds", "training_seconds"]
STUDY: dict[str, Any] = {
    "name": "engine",
    "base": "quickstart",
    "set": {
        "seeds": [0, 1],
        "training.rounds": 1,
        "training.epochs": 1,
        "training.fine_tune.epochs": 1,
        "evaluation.streams": ["iid", "temporal"],
    },
    "axes": {"rate": {"slow": {"training.lr": 0.01}, "fast": {"training.lr": 0.05}}},
    "compare": "rate",
    "reference": "slow",
}


def overhead(folder: Path) -> dict[str, float]:
    """Run a study in this process; time between jobs as a share of the jobs' own. Imports are done before."""
    importlib.import_module("fedmerge.engine.executors.processes")
    longer = {"training.rounds": 4, "training.epochs": 2}
    began = time.perf_counter()
    study = bench(STUDY | {"set": STUDY["set"] | longer}, out=folder / "overhead")
    wall = time.perf_counter() - began
    jobs = [_job(path) for path in (study.folder / "jobs").glob("*/job.json")]
    own = sum(job["seconds"] for job in jobs)
    return {"jobs": len(jobs), "wall_seconds": wall, "jobs_seconds": own, "overhead": wall / own - 1}


def resume(folder: Path, jobs: int = 1000) -> dict[str, float]:
    """Time `fedmerge bench` where everything is done; the finished jobs are made up."""
    config = folder / "resume.json"
    study = finished(STUDY, folder / "resume", jobs // 20, streams=["iid"])
    config.write_text(json.dumps(study))
    first, *again = (_timed("bench", str(config), "--out", str(folder / "resume")) for _ in range(4))
    count = len(list((folder / "resume" / "jobs").glob("*/done")))
    return {"jobs": count, "first_with_report": first, "seconds": min(again), "slowest": max(again)}


def report(folder: Path) -> dict[str, float]:
    """Time `fedmerge report` on 100,000 rows; the rows are made up."""
    streams = ["iid", "temporal", {"dirichlet": 0.5}, {"dirichlet": 0.05}]
    shifts = {"evaluation.shifts": ["noise", "blur", "contrast"], "evaluation.severities": [1, 2, 3, 4, 5]}
    finished(STUDY, folder / "report", 79, streams=streams, **shifts)
    rows = len(open_study(folder / "report").table)
    return {"rows": rows, "seconds": _timed("report", str(folder / "report"))}


def kill(folder: Path, times: int = 20) -> dict[str, float]:
    """Kill a study (SIGKILL) at random moments, then let it end: it must have the same rows, each once."""
    config = folder / "kill.json"
    config.write_text(json.dumps(STUDY))
    whole = bench(STUDY, out=folder / "whole").table.drop(columns=CLOCKS)
    moments, killed, out = random.Random(0), 0, folder / "killed"
    for _ in range(times):
        process = subprocess.Popen(_command("bench", str(config), "--out", str(out), "--json"), **QUIET)
        try:
            process.wait(moments.uniform(2, 12))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
    rows = bench(STUDY, out=out).table.drop(columns=CLOCKS)
    pd.testing.assert_frame_equal(rows, whole)
    return {"killed": killed, "rows": len(rows), "equal": True}


def packing(folder: Path, tasks: int = 24, workers: int = 2) -> dict[str, float]:
    """Run a study of equal trainings on Ray; its wall time against perfect packing of their own seconds."""
    from fedmerge.cluster.attach import ray_initialised
    from fedmerge.cluster.config import BackendConfig

    changes = {"seeds": [*range(tasks)], "training.rounds": 0, "training.fine_tune.epochs": 60}
    changes |= {"fusion": [], "testtime": [], "evaluation.streams": ["iid"]}
    study = STUDY | {"set": STUDY["set"] | changes, "axes": {}, "compare": "method", "reference": None}
    study |= {"references": ["alone"]}
    backend = BackendConfig(kind="ray", workers=workers)
    times: list[float] = []
    with ray_initialised(backend):
        bench(
            study, out=folder / "packing", backend=backend, watch=lambda _: times.append(time.perf_counter())
        )
    wall = times[-1] - times[0]
    jobs = [_job(path) for path in (folder / "packing" / "jobs").glob("*/job.json")]
    own = sum(job["seconds"] for job in jobs)
    return {
        "trainings": tasks,
        "jobs": len(jobs),
        "wall_seconds": wall,
        "jobs_seconds": own,
        "packing": wall / (own / workers),
    }


def finished(study: dict[str, Any], out: Path, seeds: int, **settings: Any) -> dict[str, Any]:
    """Leave a study's folder in which every job is done, with scores drawn at random."""
    streams = settings.pop("streams")
    study = study | {
        "set": study["set"] | settings | {"seeds": [*range(seeds)], "evaluation.streams": streams}
    }
    config, variants = read_bench(study)
    plan, store, rng = make_plan(config, variants), Store(out), np.random.default_rng(0)
    (experiment, *_) = (variant.experiment for variant in variants)
    looks = [("none", 0), *experiment.evaluation.shifted]
    names = [stream.name for stream in experiment.evaluation.streams]
    for job in plan.tasks.values():
        part = store.part(job.name)
        rows = []
        if job.kind == "evaluate":
            method = job.config["method"]["method"]
            kind = job.config["as"]
            labels = [f"alone:{name}" for name in job.config["members"]] if kind == "alone" else [method]
            rows = [_row(rng, label, kind, s, *look) for label in labels for look in looks for s in names]
        write_text(part / "rows.json", json.dumps(rows))
        write_text(part / "bins.json", "[]")
        record = {
            "device": "cpu (CPU)",
            "versions": {},
            "training_seconds": 1.0,
            "seconds": 1.0,
            "reason": "",
        }
        store.finish(job.name, part, record, "done")
    adopt(out, config, plan, extend=False)
    collect(config, plan, store)
    return study


def _row(rng: np.random.Generator, method: str, kind: str, stream: str, shift: str, severity: int) -> dict:
    scores = ["accuracy", "balanced_accuracy", "auroc", "ece", "brier", "validation"]
    numbers = dict(zip(scores, rng.uniform(0.5, 0.9, len(scores)).tolist(), strict=True))
    where = {"stream": stream, "shift": shift, "severity": severity, "method": method, "kind": kind}
    return (
        where
        | numbers
        | {"n": 100, "auroc_classes": 10, "forward_passes": 1.0, "backward_passes": 0.0, "seconds": 0.1}
    )


QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedmerge", *arguments]


def _timed(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(_command(*arguments), check=True, **QUIET)
    return time.perf_counter() - began


def _job(path: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(path.read_text())
    return job


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "overhead": overhead, "resume": resume, "report": report, "kill": kill, "packing": packing,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    result = {}
    for name in [args.only] if args.only else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = PARTS[name](Path(folder))
        print(name, json.dumps(result[name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
