"""Angles between models, layer by layer, and of their heads."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import in_a_row, panels
from fedmerge.reports.figures.style import FAINT, PALETTE, WIDE, styled

PARTS = {"encoder": PALETTE[0], "head": PALETTE[3]}
MARKS = {"weight": "o", "bias": "s", "norm": "^", "other": "D"}


@styled
def drift(finding: Finding, width: float = WIDE) -> Figure:
    """Draw the mean angle of each parameter by depth: raw, and around the start where that is known."""
    layers = finding.tables["layers"]
    kinds = [("angle", "between weights")]
    if "task_angle" in layers and layers["task_angle"].notna().any():
        kinds.append(("task_angle", "between steps from the start"))
    made, grid = panels(
        width, 2.4 if in_a_row(2, width) > 1 else 1.9, len(kinds), finding.sentence.rstrip("."),
        "depth of the parameter in the network", legend=_legend(layers),
    )  # fmt: skip
    for axes, (column, title) in zip(grid, kinds, strict=True):
        for (part, kind), rows in layers.groupby(["part", "kind"], sort=False):
            axes.plot(
                rows["depth"],
                rows[column],
                MARKS[str(kind)],
                color=PARTS[str(part)],
                markersize=4,
                alpha=0.85,
            )
        axes.axhline(90, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_ylim(0, max(95.0, 1.05 * float(layers[column].max(skipna=True) or 0)))
    grid[0].set_ylabel("degrees")
    return made


def _legend(layers: pd.DataFrame) -> list[Line2D]:
    pairs = layers[["part", "kind"]].drop_duplicates().itertuples(index=False)
    return [
        Line2D([], [], color=PARTS[p], marker=MARKS[k], linestyle="", markersize=4, label=f"{p}, {k}")
        for p, k in pairs
    ]
