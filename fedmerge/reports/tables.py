"""Tables of a page: text in cells, the number behind each for sorting, the best marked."""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADINGS = {
    "reference": "Reference: one class for every image, the commonest of the training images",
    "alone": "References: one hospital's model alone",
    "pooled": "Reference: one model trained on all hospitals' images together",
    "oracle": "Oracle: chosen by the labels of the unseen hospital, which nobody has there",
    "fusion": "Fused by the server",
    "test-time": "Adapting at the unseen hospital",
}


def heading(kind: str, receiver: str = "unseen hospital") -> str:
    """Return the heading over the methods of a kind."""
    return HEADINGS[kind].replace("unseen hospital", receiver)


@dataclass(frozen=True)
class Cell:
    """A number as text with a line of detail beneath, and whether it is the best of its column."""

    text: str
    best: bool = False
    value: float = math.nan
    detail: str = ""

    @property
    def sort(self) -> str:
        """The number that sorts the column, as text; empty for NaN."""
        return "" if math.isnan(self.value) else f"{self.value:.10g}"


@dataclass(frozen=True)
class Line:
    """A line of a method or level: its label, a title that explains it, and its cells."""

    method: str
    title: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """Lines under a heading, which may be empty."""

    heading: str
    lines: list[Line]


@dataclass(frozen=True)
class Table:
    """A whole table of a page.

    label: its contents, for those who cannot see it. first: heading of the first column. columns: the other
    headings by their common heading, which may be empty. falling: headings of columns where a small number is
    good, which are sorted from small to large first.
    """

    label: str
    first: str
    columns: dict[str, list[str]]
    groups: list[Group]
    falling: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The headings after the first column."""
        return [name for names in self.columns.values() for name in names]

    @property
    def shared(self) -> bool:
        """Whether there is a row of common headings above."""
        return any(self.columns)

    def first_order(self, name: str) -> str:
        """Return how a column is sorted at first: best on top."""
        return "ascending" if name in self.falling else "descending"
