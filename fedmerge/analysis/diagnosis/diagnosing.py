"""Run analyses on a subject: one that is refused or lacks something does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmerge.analysis.diagnosis.contract import ANALYSES, SELDOM, Finding, Subject
from fedmerge.errors import FedMergeError


def diagnose(
    subject: Subject,
    names: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, Finding], dict[str, str]]:
    """Run analyses on a subject: the findings by name, and why others gave none.

    names: which; None: the usual ones. options: of each, by its name. One that is refused or lacks
    something does not stop the others. Raises FedMergeError for an unknown name or option.
    """
    chosen = [ANALYSES[name] for name in (usual() if names is None else names)]
    checked = {each.name: each.check(dict((options or {}).get(each.name, {}))) for each in chosen}
    findings: dict[str, Finding] = {}
    left: dict[str, str] = {}
    for each in chosen:
        if unfit := each.misfit(subject.task.name):
            left[each.name] = f"{each.title.lower()} is not for task {subject.task.name}: {unfit}."
            continue
        if missing := subject.lacks(each.needs):
            left[each.name] = f"{each.title.lower()} needs {missing}."
            continue
        try:
            findings[each.name] = each.call(subject, **checked[each.name])
        except FedMergeError as error:
            left[each.name] = str(error)
    return findings, left


def usual() -> list[str]:
    """Return the analyses that are made where none are named."""
    return [name for name in ANALYSES.names() if name not in SELDOM]
