"""Remarks on the images of a study, collected from the jobs that trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmerge.engine.store import Store, said
from fedmerge.experiment.kinds import LOOKS
from fedmerge.storage.files import write_json
from fedmerge.workflows.bench.plan import StudyPlan

NAME = "remarks.json"


def write_remarks(plan: StudyPlan, store: Store, more: Sequence[str] = ()) -> None:
    """Write the remarks of the finished jobs, one of each kind and cohort, into the study's folder.

    more: sentences about jobs whose files had changed since they were written, and trackers that failed.
    A remark that the first job of its cohort does not make begins with the job that does.
    """
    states = store.states(plan.tasks)
    first: dict[str, str] = {}
    found: dict[tuple[str, str], str] = {}
    for job in plan.tasks.values():
        if job.kind != LOOKS or states[job.name] not in ("done", "dropped"):
            continue
        cohort = job.config["experiment"]["cohort"]["name"]
        place = cohort if first.setdefault(cohort, job.name) == job.name else f"{cohort}, {job.label}"
        made: dict[str, Any] = store.read(job.name, "job.json")
        for kind, text in made.get("remarks", {}).items():
            found.setdefault((cohort, kind), f"{place}: {text}")
    with said(store.folder):
        write_json(store.folder / NAME, [*more, *found.values()])


def read_remarks(folder: Path) -> list[str]:
    """Read the remarks in a study's folder; an older study may have none."""
    path = folder / NAME
    found: list[str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found
