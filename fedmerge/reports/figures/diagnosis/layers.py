"""Filters by layer: how many directions they span, before and after merging."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.merging import effective_rank
from fedmerge.reports.figures.panels import panels
from fedmerge.reports.figures.style import INK, WIDE, colours, styled


@styled
def filters(finding: Finding, width: float = WIDE) -> Figure:
    """Draw effective rank and the share of alike pairs by convolution, a line a model; the mean is dark."""
    frame = finding.frame
    names = list(dict.fromkeys(frame["model"]))
    shade = colours(names) | {"mean": INK}
    legend = [Line2D([], [], color=shade[name], label=name) for name in names[:7]]
    what = [("rank", "effective rank, % of filters"), ("share", "pairs above the threshold, %")]
    if "redundancy" in frame:
        what.append(("redundancy", "correlation of feature maps, %"))
    made, grid = panels(width, 2.1, len(what), finding.sentence.rstrip("."), "convolution", legend=legend)
    for axes, (column, title) in zip(grid, what, strict=True):
        for name in names:
            rows = frame[frame["model"] == name].reset_index(drop=True)
            values = rows[column] / rows["filters"] if column == "rank" else rows[column]
            axes.plot(rows.index + 1, values, "o-", color=shade[name], markersize=3, linewidth=1.1)
        axes.set_ylim(0, None)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return made


def inmerge(finding: Finding, width: float = WIDE) -> Figure:
    """Draw the effective rank by epoch, with merging and without; see ``figures.effective_rank``."""
    frame = finding.tables["effective_rank"]
    merged = set(finding.tables["merges"]["layer"])
    part = frame[frame["run"].isin(("with", "without")) & frame["layer"].isin(merged)]
    return effective_rank(part.reset_index(drop=True), width)
