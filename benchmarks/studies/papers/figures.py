"""The figures of each page on the papers, by name. A title is decided by the rows' numbers."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.pages import Picture
from benchmarks.studies.papers import (
    compression_figures,
    depths_figures,
    filters_figures,
    mirage_figures,
    neurons_figures,
    rethinking_figures,
)
from benchmarks.studies.papers.claims import Rows

FIGURES: dict[str, dict[str, tuple[Callable[[Rows], Picture], str]]] = {
    "mirage": {
        "drift": (mirage_figures.drift, "drift-layers"),
        "paths": (mirage_figures.paths, "barriers-optimum-path"),
        "plane": (mirage_figures.plane, "plane"),
        "gains": (mirage_figures.gains, ""),
    },
    "rethinking": {
        "averages": (rethinking_figures.averages, "averages"),
        "depths": (depths_figures.depths, "depth"),
        "magnified": (rethinking_figures.magnified, "magnified"),
        "templates": (rethinking_figures.templates, "templates"),
    },
    "neuron-interpolation": {
        "fused": (neurons_figures.fused, "fused"),
        "errors": (neurons_figures.errors, "errors"),
        "cost": (neurons_figures.cost, "fused"),
        "compressed": (compression_figures.compressed, "compressed"),
    },
    "in-model-merging": {
        "scores": (filters_figures.scores, "scores"),
        "pairs": (filters_figures.pairs, "pairs"),
        "ranks": (filters_figures.ranks, "rank"),
    },
}
"""By page, the figures by name, in order, each with the part of the page's rows that it draws."""
NOTHING = "*Not drawn yet: its rows were not computed.*"


def pictures_of(name: str, rows: Rows) -> tuple[dict[str, Picture], dict[str, str]]:
    """Return the figures of a page, and the blocks of those whose rows are not there."""
    parts = {"", *rows.of(name)["part"]}
    made = {each: draw(rows) for each, (draw, part) in FIGURES[name].items() if part in parts}
    return made, {f"figure-{each}": NOTHING for each in FIGURES[name] if each not in made}
