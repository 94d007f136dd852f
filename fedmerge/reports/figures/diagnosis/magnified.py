"""Accuracy of magnified models, by factor."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import panels
from fedmerge.reports.figures.style import PALETTE, WIDE, styled

WHO = {"members": PALETTE[6], "mean": PALETTE[0], "ensemble": PALETTE[3]}
TITLES = {"float32": "float32", "exact": "without overflow"}


@styled
def magnification(finding: Finding, width: float = WIDE) -> Figure:
    """Draw accuracy against the factor, in float32 and without overflow, side by side."""
    frame = finding.frame
    legend = [Line2D([], [], color=c, marker="o", markersize=3.5, label=name) for name, c in WHO.items()]
    label = "factor of all weights (logarithmic)"
    made, grid = panels(width, 2.3, 2, finding.sentence.rstrip("."), label, legend=legend, columns=2)
    for axes, (precision, title) in zip(grid, TITLES.items(), strict=True):
        for who, rows in frame[frame["precision"] == precision].groupby("who", sort=False):
            axes.plot(
                rows["factor"], rows["accuracy"], "o-", color=WHO[str(who)], markersize=3.5, linewidth=1.2
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_title(title)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    grid[0].set_ylabel("accuracy, %")
    return made
