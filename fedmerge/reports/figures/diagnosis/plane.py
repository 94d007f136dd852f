"""The plane through three models as heat maps of accuracy and loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import in_a_row
from fedmerge.reports.figures.style import INK, WIDE, figure, styled

LOOK = {"model": ("o", "white"), "mean": ("*", "#FFE066"), "extra": ("D", "#CC79A7"), "batch": (".", INK)}


@styled
def landscape(finding: Finding, width: float = WIDE) -> Figure:
    """Draw accuracy and loss on the plane, darker is better, with models and merges as marks.

    Marks off the plane stand at their projection. The loss is cut at its 90 % quantile, so that one bad
    corner does not hide the rest.
    """
    plane, marks = finding.tables["plane"], finding.tables["marks"]
    beside = in_a_row(2, width) > 1
    made = figure(width, 3.4 if beside else 6.2, finding.sentence.rstrip("."))
    grid = made.subplots(*((1, 2) if beside else (2, 1)))
    for axes, column, cmap in zip(grid, ("accuracy", "loss"), ("Blues", "Blues_r"), strict=True):
        table = plane.pivot_table(index="y", columns="x", values=column, dropna=False)
        values = np.ma.masked_invalid(table.to_numpy(dtype=float))
        top = float(np.nanquantile(table, 0.9)) if column == "loss" else None
        mesh = axes.pcolormesh(
            table.columns, table.index, values, cmap=cmap, vmax=top, shading="nearest", rasterized=True
        )
        made.colorbar(mesh, ax=axes, location="bottom", aspect=30, shrink=0.9)
        _marks(axes, marks)
        axes.set_title("accuracy" if column == "accuracy" else "loss, nats")
        axes.set_xlim(plane["x"].min(), plane["x"].max())
        axes.set_ylim(plane["y"].min(), plane["y"].max())
        axes.set_aspect("equal")
        axes.grid(False)
    return made


def _marks(axes: Axes, marks: pd.DataFrame) -> None:
    for row in marks.sort_values("kind").to_dict("records"):
        shape, colour = LOOK[row["kind"]]
        size = {"mean": 11, "batch": 4}.get(row["kind"], 6)
        axes.plot(row["x"], row["y"], shape, color=colour, markeredgecolor=INK, markersize=size, clip_on=True)
        if row["kind"] != "batch":
            axes.annotate(
                row["name"], (row["x"], row["y"]), xytext=(4, -10 if row["kind"] == "extra" else 4),
                textcoords="offset points", fontsize=7, color=INK,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
                annotation_clip=True,
            )  # fmt: skip
