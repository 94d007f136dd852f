"""Accuracy on the straight paths between models."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import panels
from fedmerge.reports.figures.style import FAINT, WIDE, colours, styled

NORMS = {"kept": "-", "anew": "--"}
MOST = 6


@styled
def barriers(finding: Finding, width: float = WIDE) -> Figure:
    """Draw accuracy along each path between two models, and along those to other ends (the mean) in grey.

    Dashed: with batch norms measured anew. Of more than six paths between models the six that lose most are
    coloured.
    """
    paths, frame = finding.tables["paths"], finding.tables["barriers"]
    between = frame[frame["end"] == "model"]
    worst = between.groupby(["first", "second"], sort=False)["lost"].max().sort_values(ascending=False)
    shown = [(str(a), str(b)) for a, b in worst.index[:MOST]]
    shade = colours(f"{a} to {b}" for a, b in shown)
    legend = [Line2D([], [], color=shade[name], label=name) for name in shade]
    if len(shown) < paths.groupby(["first", "second"]).ngroups:
        legend.append(Line2D([], [], color=FAINT, linewidth=0.7, label="other paths"))
    label = "share of the way" + (" (dashed: batch norms anew)" if (paths["norms"] == "anew").any() else "")
    made, (axes,) = panels(width, 2.5, 1, finding.sentence.rstrip("."), label, legend=legend)
    for (first, second, norms), path in paths.groupby(["first", "second", "norms"], sort=False):
        known = (first, second) in shown
        axes.plot(
            path["t"], path["accuracy"], linestyle=NORMS[str(norms)], zorder=3 if known else 2,
            color=shade[f"{first} to {second}"] if known else FAINT, linewidth=1.5 if known else 0.7,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_ylabel("accuracy, %")
    return made
