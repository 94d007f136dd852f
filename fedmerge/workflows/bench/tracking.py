"""Tell trackers what goes on in a study, from the events of its graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fedmerge.engine.events import Event, Subscriber
from fedmerge.engine.store import Store
from fedmerge.engine.task import Outcome, Task
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.stages.tracking import Trackers, started
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.plan import Entry, StudyPlan
from fedmerge.workflows.bench.rows import labelled, read_job
from fedmerge.workflows.bench.variants import in_words

Row = dict[str, Any]
ERROR = {"attempt": 1, "then": "left out", "kind": "error", "injected": ""}
"""What a failure's row says of a job that failed, beside the reason."""


@contextmanager
def tracking(
    config: BenchConfig, plan: StudyPlan, store: Store, remarks: list[str]
) -> Iterator[Sequence[Subscriber]]:
    """Yield the subscribers that tell the study's trackers each job that ends in the block; often none.

    remarks: takes a sentence for each tracker that raised; it is told nothing more, and the study goes on.
    """
    if not config.trackers:
        yield ()
        return

    def failed(name: str, reason: str) -> None:
        remarks.append(f"tracker {name}: {reason}")

    with started(config.trackers, config.model_dump(mode="json"), store.folder, failed) as trackers:
        yield (_Telling(config, plan, store, trackers).take,)


class _Telling:
    """From events to rows. A job that several combinations of levels share is told under the first one."""

    def __init__(self, config: BenchConfig, plan: StudyPlan, store: Store, trackers: Trackers) -> None:
        self._config, self._plan, self._store, self._log = config, plan, store, trackers.log
        self._entries: dict[str, list[Entry]] = {name: [] for name in plan.tasks}
        for entry in plan.entries:
            self._entries[entry.task].append(entry)

    def take(self, event: Event) -> None:
        """Tell a job that has ended: what it measured, what failed in it, and how long it took."""
        if event.kind != "ended" or event.task is None or event.outcome is None:
            return
        task, outcome, place = event.task, event.outcome, self._place(event.task)
        if outcome.status == "done":
            self._done(task, place)
        else:
            self._log("failures", place | {"where": task.label, "reason": outcome.reason} | ERROR)
        self._log("jobs", place | self._ended(task, outcome))

    def _done(self, task: Task, place: Row) -> None:
        job = self._store.read(task.name, "job.json")
        for row in job["history"]:
            self._log("history", row | {key: place[key] for key in ("variant", "federation")})
        for entry in self._entries[task.name]:
            read = read_job(self._store, self._plan, entry, {task.name: "done"})
            levels = {axis: entry.columns[axis] for axis in self._config.axes}
            for row in labelled(self._config, entry, read)[0]:
                self._log("results", {"variant": in_words(levels)} | row)
        for row in job["failures"]:
            self._log("failures", {"variant": place["variant"]} | row)

    def _place(self, task: Task) -> Row:
        """Return what a job is about: variant, seed, federation, and the hospital and method it has."""
        variant, seed = self._plan.cases[task.name][0]
        members = tuple(task.config.get("members", ()))
        names = [
            each.name for each in federations(variant.cohort, variant.experiment) if each.members == members
        ]
        place = {
            "variant": in_words(variant.levels),
            "seed": seed,
            "federation": names[0] if names else "",
            "site": task.config.get("target", ""),
        }
        entries = self._entries[task.name]
        return place | ({"method": entries[0].columns["method"]} if entries else {})

    def _ended(self, task: Task, outcome: Outcome) -> Row:
        about = {"job": task.name, "label": task.label, "phase": task.kind, "status": outcome.status}
        return about | {"reason": outcome.reason, "seconds": outcome.seconds}
