"""Curves of rounds as points of a small drawing, and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 320, 120
"""The drawing's size in its own units; a page scales it."""
SHAPES = ("", "7 3", "2 3", "9 3 2 3")
"""Dashes, so that curves are told apart without their colours."""
MEASURES = (
    ("validate", "accuracy", "Accuracy on each hospital's validation images", 100.0, "%"),
    ("validate", "auroc", "AUROC on each hospital's validation images", 1.0, ""),
    ("train", "loss", "Training loss of each hospital", 1.0, ""),
)
"""Phase and column of the rows of rounds, the title, and the factor and unit in which it is shown."""


class Line(NamedTuple):
    """One hospital's curve. points: of an SVG polyline. last: its latest value. number: of its colour."""

    name: str
    points: str
    last: float
    number: int
    dashes: str


class Chart(NamedTuple):
    """Curves of one measure. low, high: the values at the bottom and the top; first, last: rounds."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    low: float
    high: float
    first: int
    last: int

    @property
    def words(self) -> str:
        """The latest values in words, for those who cannot see the curves."""
        told = ", ".join(f"{line.name} {line.last:.3g}{self.unit and ' ' + self.unit}" for line in self.lines)
        return f"{self.title} in rounds {self.first} to {self.last}; the latest: {told}."


def charts(rows: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return a chart for each measure that the rows of rounds hold."""
    found = (_chart(rows, *measure) for measure in MEASURES)
    return [chart for chart in found if chart is not None]


def _chart(
    rows: Sequence[dict[str, Any]], phase: str, key: str, title: str, factor: float, unit: str
) -> Chart | None:
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        value = row.get(key)
        if row.get("phase") == phase and isinstance(value, int | float) and math.isfinite(value):
            values.setdefault(str(row["site"]), {})[int(row["round"])] = factor * value
    if not values:
        return None
    rounds = sorted({each for line in values.values() for each in line})
    every = [value for line in values.values() for value in line.values()]
    low, high = min(every), max(every)
    span, reach = (high - low) or 1.0, max(rounds[-1] - rounds[0], 1)

    def place(at: int, value: float) -> str:
        return f"{WIDTH * (at - rounds[0]) / reach:.1f},{HEIGHT * (high - value) / span:.1f}"

    lines = tuple(
        Line(
            site,
            " ".join(place(at, line[at]) for at in sorted(line)),
            line[max(line)],
            number % 8,
            SHAPES[number // 8 % len(SHAPES)],
        )
        for number, (site, line) in enumerate(sorted(values.items()))
    )
    return Chart(title, unit, lines, low, high, rounds[0], rounds[-1])
