"""Class means beside the weights of a linear classifier, and merged weights."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import PHONE
from fedmerge.reports.figures.style import SMALL, WIDE, figure, styled

LINES = (("means", "mean image"), ("weights", "weights"), ("merged", "two classes’ weights, merged"))


@styled
def templates(finding: Finding, width: float = WIDE) -> Figure:
    """Draw, for the first classes, the mean image, the weights and the merged weights, dark to bright."""
    classes = 10 if width >= PHONE else 5
    most = min(classes, len(finding.frame))
    side = (width - 0.3) / classes
    made = figure(width, len(LINES) * (side + 0.3), finding.sentence.rstrip("."))
    grid = made.subplots(len(LINES), classes, squeeze=False)
    for line, (name, title) in zip(grid, LINES, strict=True):
        for place, axes in enumerate(line):
            axes.axis("off")
            if place < min(most, len(finding.arrays.get(name, ()))):
                axes.imshow(_bright(finding.arrays[name][place]), cmap="gray", vmin=0, vmax=1)
                axes.set_title(_heading(finding, name, place, title), fontsize=SMALL)
    return made


def _heading(finding: Finding, name: str, place: int, title: str) -> str:
    if place == 0:
        return title
    if name == "merged":
        row = finding.tables["merged"].iloc[place]
        return f"{row['first']:g} and {row['second']:g}"
    return f"class {finding.frame['class'].iloc[place]:g}"


def _bright(image: np.ndarray) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    spread = (image - low) / max(high - low, 1e-12)
    return np.asarray(spread[0] if len(spread) == 1 else spread[:3].transpose(1, 2, 0))
