"""What a tracker is told of a run or a study, and the registry of all trackers.

A tracker is a class with three methods, registered with ``@TRACKERS.method(...)``; the keyword-only
parameters of its constructor are its options. It only hears: nothing that it does changes a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from fedmerge.registry import Registry

TRACKERS = Registry("tracking", "tracker", "fedmerge.trackers", ("start", "log", "finish"))
PLACE = ("variant", "seed", "federation", "site", "phase", "stream", "shift", "severity", "method")
"""The columns that say what a row is about, in the order of a scalar's name."""
SILENT = {"round", "n", "auroc_classes", "kind", "constant"}


class Tracker(Protocol):
    """What a run or a study tells, in the order in which it happens.

    ``log`` gets rows as they stand in the tables: ``history`` (a hospital in a phase of a round; step: the
    round), ``results`` (a method on a stream) and ``failures``. A study's rows have the combination of its
    axes' levels as ``variant``, and there are rows of ``jobs``: each that ended, with its stage as ``phase``,
    its ``status`` and its ``seconds``. The step of all but the history is the number of such rows so far.
    What is resumed tells only what is new.
    """

    def start(self, config: Mapping[str, Any], folder: Path) -> None:
        """Begin: the configuration as saved, and the folder of the run or study; write nothing in it."""
        ...

    def log(self, kind: str, row: Mapping[str, Any], step: int) -> None:
        """Take one row of a table."""
        ...

    def finish(self, finished: bool) -> None:
        """End; finished: whether the work ended well, not cut short by an error or Ctrl-C."""
        ...


def scalars(kind: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row under names such as ``history/0/all/north/train/loss``; no NaN."""
    about = [str(row[key]) for key in PLACE if row.get(key, "") not in ("", "none", 0) or key == "seed"]
    return {
        re.sub(r"[^\w\-. /]", "-", "/".join([kind, *about, name])): float(value)
        for name, value in row.items()
        if name not in SILENT and name not in PLACE and isinstance(value, Real) and math.isfinite(value)
    }


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return a configuration as dotted names and text: ``training.lr`` is ``0.05``."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{above}.{key}" if above else str(key)
        found |= flat(value, name) if isinstance(value, Mapping) and value else {name: str(value)}
    return found
