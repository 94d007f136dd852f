"""Learning-rate schedules over a whole training, of which one call may cover only a part."""

from __future__ import annotations

import math
from typing import Literal

from fedmerge.errors import FedMergeError

Schedule = Literal["cosine", "one-cycle", "constant"]

WARM_UP, START, END = 0.3, 1 / 25, 1e-4
"""one-cycle: the fraction that warms up, and the first and the last factor."""


def factor(schedule: Schedule, done: float) -> float:
    """Return the factor of the peak learning rate when the fraction ``done`` of the training is over.

    cosine: (1 + cos(pi t)) / 2, from 1 to 0. constant: 1. one-cycle: linear from 1/25 to 1 over the first
    30 %, then a cosine from 1 to 1e-4; the momentum is not cycled.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if done < WARM_UP:
        return START + (1 - START) * done / WARM_UP
    return END + (1 - END) * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


def learning_rates(
    schedule: Schedule, lr: float, steps: int, span: tuple[float, float] = (0.0, 1.0)
) -> list[float]:
    """The learning rate of each of ``steps`` steps that cover the part ``span`` of the whole schedule.

    Step s of n uses t = start + (end - start) s / n, so calls with adjoining spans continue one another.
    Raises FedMergeError for a span that is not 0 <= start < end <= 1.
    """
    start, end = span
    if not 0 <= start < end <= 1:
        raise FedMergeError(f"span {span} is not a part of the schedule: give 0 <= start < end <= 1.")
    return [lr * factor(schedule, start + (end - start) * step / steps) for step in range(steps)]
