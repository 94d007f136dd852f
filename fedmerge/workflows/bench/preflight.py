"""Checks of a study before its first job and before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from fedmerge.data import build_cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.stages import preflight
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.plan import Case, StudyPlan
from fedmerge.workflows.bench.variants import in_words, said_once


def check(config: BenchConfig, plan: StudyPlan, todo: Iterable[str]) -> None:
    """Raise FedMergeError for every experiment with a task in ``todo`` that cannot be done.

    Each cohort is read and divided once for each of its seeds: a source that is not there or cannot be read,
    a hospital without enough images, a network that cannot be built for them, images too few for a batch.
    """
    wrong: dict[str, list[str]] = {}
    for cases in _by_cohort(plan, todo):
        (first, seed), *_ = cases
        try:
            cohort = build_cohort(first.cohort, seed)
        except FedMergeError as error:
            _note(wrong, error, cases)
            continue
        for case in cases:
            try:
                preflight.check(case[0].experiment, cohort)
            except FedMergeError as error:
                _note(wrong, error, [case])
    if wrong:
        raise FedMergeError(*said_once(wrong, f"study '{config.name}'"))


def _by_cohort(plan: StudyPlan, todo: Iterable[str]) -> list[list[Case]]:
    """Group the variants and seeds with a task in ``todo`` by cohort and seed, each once."""
    found: dict[str, dict[str, Case]] = {}
    for variant, seed in (case for name in todo for case in plan.cases[name]):
        written = variant.cohort.model_dump(mode="json"), str(variant.cohort.folder), seed
        found.setdefault(json.dumps(written), {})[f"{variant.levels} {seed}"] = variant, seed
    return [list(cases.values()) for cases in found.values()]


def _note(wrong: dict[str, list[str]], error: FedMergeError, cases: Sequence[Case]) -> None:
    for sentence in map(str, error.args):
        places = wrong.setdefault(sentence, [])
        places += [", ".join(filter(None, (in_words(each.levels), f"seed {seed}"))) for each, seed in cases]
