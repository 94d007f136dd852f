"""Sample images of each hospital."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fedmerge.data import Cohort, Site
from fedmerge.experiment.formatting import count, listing
from fedmerge.reports.figures.style import (
    FAINT,
    PALE,
    SMALL,
    TYPE,
    WIDE,
    Caption,
    drawing,
    letters,
    picture,
    shortened,
    styled,
    wrapped,
)  # fmt: skip

UNSEEN = "#006b4f"  # the palette's green, dark enough for small letters


@styled
def samples(cohort: Cohort, per_site: int = 8, width: float = WIDE) -> Figure:
    """Draw sample images: a row for each hospital, a column (or a group of them) for each class."""
    classes = _columns(cohort, per_site)
    name_width = 0.2 * width if width >= 5.5 else 0.0
    side = (width - 0.2 - name_width) / len(classes)
    head, tilted = _head(cohort, classes, side)
    above = 0.0 if name_width else 0.24
    row = side + above + 0.04
    title = describe_samples(cohort, per_site).title
    figure, axes = drawing(width, head + row * len(cohort.sites) + 0.1, title)
    left = 0.1 + name_width
    _write_head(axes, cohort, classes, left, side, head, tilted)
    for i, site in enumerate(cohort.sites):
        top = head + i * row
        _write_name(axes, site, top, name_width, side)
        _draw_row(axes, site, classes, left, top + above, side)
    return figure


def describe_samples(cohort: Cohort, per_site: int = 8) -> Caption:
    """Describe the sample images in words."""
    n = len(set(_columns(cohort, per_site)))
    what = "findings" if cohort.task.many else "classes"
    title = f"The same {what}, as the scanners of {count(len(cohort.sites), 'hospital')} show them"
    channels, height, wide = cohort.shape
    kind = "grey" if channels == 1 else "colour"
    shown = "all" if n == cohort.n_classes else f"{n} of the"
    unseen = [site.name for site in cohort.unseen]
    marked = f" {listing(unseen)} (marked green) took no part in training." if unseen else ""
    shifts = [f"{s.name}: {listing([a.kind for a in s.scanner])}" for s in cohort.sites if s.scanner]
    scanners = f" Scanner effects, {'; '.join(shifts)}." if shifts else ""
    return Caption(
        title, f"Sample {kind} images of {height} x {wide} pixels, one row a hospital, "
        f"{shown} {cohort.n_classes} {what} by column.{marked}{scanners}"
    )  # fmt: skip


def _columns(cohort: Cohort, per_site: int) -> list[int]:
    """Return the class of each column: the most frequent classes, or each class several times."""
    if cohort.n_classes <= per_site:
        return [column * cohort.n_classes // per_site for column in range(per_site)]
    totals = sum(_counts(site) for site in cohort.sites)
    assert isinstance(totals, Tensor)
    return sorted(torch.argsort(totals, descending=True, stable=True)[:per_site].tolist())


def _counts(site: Site) -> Tensor:
    return sum(
        (split.class_counts(site.n_classes) for split in (site.train, site.val, site.test)), torch.tensor(0)
    )


def _first(site: Site, label: int, number: int) -> list[Tensor]:
    """Return up to ``number`` images of a class, without joining the splits in memory."""
    found: list[Tensor] = []
    for split in (site.train, site.val, site.test):
        has = split.labels[:, label] == 1 if split.labels.ndim == 2 else split.labels == label
        at = torch.nonzero(has).flatten()[: number - len(found)]
        found += list(split.images[at])
    return found


def _draw_row(axes: Axes, site: Site, classes: list[int], left: float, top: float, side: float) -> None:
    gap = 0.03
    for label in dict.fromkeys(classes):
        images = _first(site, label, classes.count(label))
        for i in range(classes.count(label)):
            at = left + (classes.index(label) + i) * side + gap / 2
            if i < len(images):
                picture(axes, images[i], at, top, side - gap)
                continue
            axes.add_patch(
                Rectangle((at, top), side - gap, side - gap, facecolor="none", edgecolor=PALE, linestyle=":")
            )
            axes.text(
                at + side / 2, top + side / 2, "none", ha="center", va="center", fontsize=SMALL, color=FAINT
            )


def _write_name(axes: Axes, site: Site, top: float, name_width: float, side: float) -> None:
    colour = UNSEEN if site.unseen else "black"
    if not name_width:
        text = f"{site.name} (unseen)" if site.unseen else site.name
        axes.text(0.1, top + 0.2, text, va="bottom", fontweight="bold", color=colour, fontsize=TYPE)
        return
    name = shortened(site.name, letters(name_width - 0.05, TYPE))
    mark = "unseen" if site.unseen else "trains"
    axes.text(0.1, top + side / 2, name, va="bottom", fontweight="bold", color=colour, fontsize=TYPE)
    axes.text(
        0.1, top + side / 2 + 0.03, mark, va="top", color=colour if site.unseen else FAINT, fontsize=SMALL
    )


def _head(cohort: Cohort, classes: list[int], side: float) -> tuple[float, bool]:
    """Return the height of the class names' line in inches, and whether they must stand upright."""
    spans = {label: side * classes.count(label) for label in classes}
    names = {label: cohort.class_names[label] for label in spans}
    if all(len(word) <= letters(spans[k], SMALL) for k, name in names.items() for word in name.split()):
        lines = max(len(wrapped(name, spans[label], SMALL)) for label, name in names.items())
        return 0.08 + 0.13 * lines, False
    longest = max(min(len(name), 24) for name in names.values())
    return 0.12 + longest * SMALL * 0.57 / 72, True


def _write_head(
    axes: Axes, cohort: Cohort, classes: list[int], left: float, side: float, height: float, tilted: bool
) -> None:
    for label in dict.fromkeys(classes):
        span = side * classes.count(label)
        name = cohort.class_names[label]
        text = shortened(name, 24) if tilted else "\n".join(wrapped(name, span, SMALL))
        middle = left + classes.index(label) * side + span / 2
        axes.text(
            middle, height - 0.05, text, ha="center", va="bottom", fontsize=SMALL, color=FAINT,
            rotation=90 if tilted else 0,
        )  # fmt: skip
