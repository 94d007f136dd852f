"""An alarm for a stream that has changed: two-sided CUSUM on how sure the answers are and what they lean
on."""

from __future__ import annotations

import math
from collections.abc import Sequence

REFERENCE = 20
"""Batches of a stream that say what is usual there."""
SLACK, LIMIT = 0.5, 10.0
"""Of CUSUM, in standard deviations: what is let pass on each batch, and the sum that is an alarm."""
LEAST = 0.01
"""The least standard deviation: 1 % of the range of an entropy or a coefficient."""


class Cusum:
    """Page's cumulative sums of one number a batch, in both directions (Biometrika 41, 1954).

    The first ``REFERENCE`` numbers give mean m and standard deviation s (at least ``LEAST``). Then, with
    z = (x - m) / s,

        up = max(0, up + z - k),    down = max(0, down - z - k),    k = SLACK,

    and the larger one above h = ``LIMIT`` is an alarm, which stays until ``reset``. m and s are estimated
    from few batches, so false alarms are more frequent than where they are known.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.first: list[float] = []
        self.up = self.down = 0.0
        self.mean = self.deviation = math.nan

    def see(self, value: float) -> float:
        """Take in a number and return the larger sum, in units of the limit; 0 for one that is not finite."""
        if not math.isfinite(value):
            return max(self.up, self.down) / LIMIT
        if len(self.first) < REFERENCE:
            self.first.append(value)
            if len(self.first) == REFERENCE:
                self.mean = sum(self.first) / REFERENCE
                squares = sum((each - self.mean) ** 2 for each in self.first)
                self.deviation = max(math.sqrt(squares / (REFERENCE - 1)), LEAST)
            return 0.0
        z = (value - self.mean) / self.deviation
        self.up, self.down = max(0.0, self.up + z - SLACK), max(0.0, self.down - z - SLACK)
        return max(self.up, self.down) / LIMIT


class DriftAlarm:
    """What is usual on a stream, and whether it still is.

    Watched are the answers' mean entropy (0 to 1), and each model's share of the encoder, where there are
    coefficients. An alarm says that images are not as they were at first: another scanner, other patients,
    another order of them. It does not say that answers are wrong.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.entropy = Cusum()
        self.shares: dict[str, Cusum] = {}
        self.since: int | None = None
        self.reasons: tuple[str, ...] = ()
        self.seen = 0

    def see(self, entropy: float, names: Sequence[str], encoder: Sequence[float] | None) -> tuple[str, ...]:
        """Take in a batch; return why there is an alarm, empty where there is none."""
        self.seen += 1
        found = [("the answers' mean entropy", self.entropy.see(entropy), self.entropy, entropy)]
        for name, share in zip(names, encoder or (), strict=False):
            watch = self.shares.setdefault(name, Cusum())
            found.append((f"the share of '{name}' in the encoder", watch.see(share), watch, share))
        reasons = [
            f"{what} was {watch.mean:.2f} on the first {REFERENCE} batches and is {value:.2f} now"
            for what, level, watch, value in found
            if level > 1
        ]
        if reasons and self.since is None:
            self.since, self.reasons = self.seen, tuple(reasons)
        return self.reasons
