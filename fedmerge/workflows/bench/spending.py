"""What the hospitals of a study have spent in its differentially private rounds, all variants together."""

from __future__ import annotations

import json
from pathlib import Path

from fedmerge.engine.store import Store, said
from fedmerge.storage.files import write_json
from fedmerge.workflows.bench.plan import StudyPlan

NAME, KIND = "privacy.json", "rounds"
"""The file, and the kind of job that releases noised models: each trains a federation anew."""


def write_spending(plan: StudyPlan, store: Store) -> None:
    """Write what the finished jobs have spent together, in words, into the study's folder.

    Nothing is written for a study without private rounds.
    """
    states = store.states(plan.tasks)
    trained = []
    for job in plan.tasks.values():
        federation = job.config["experiment"].get("federation") or {}
        if job.kind == KIND and federation.get("privacy") and states[job.name] in ("done", "dropped"):
            trained.append((federation["privacy"], store.read(job.name, "job.json")["history"]))
    if trained:
        from fedmerge.experiment.summary.privacy_summary import study_privacy_in_words  # loads the federation

        with said(store.folder):
            write_json(store.folder / NAME, study_privacy_in_words(trained))


def read_spending(folder: Path) -> str:
    """Read the words of ``write_spending``; "" where no round was private."""
    path = folder / NAME
    return str(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""
