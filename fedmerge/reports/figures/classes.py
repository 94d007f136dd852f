"""The share of each class among a hospital's images."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fedmerge.data import Cohort
from fedmerge.experiment.formatting import count, percent, thousands
from fedmerge.reports.figures.style import INK, WIDE, Caption, figure, shortened, styled


@styled
def class_shares(cohort: Cohort, width: float = WIDE) -> Figure:
    """Draw a heat map with numbers: hospitals by classes, per cent of the hospital's images."""
    shares, totals = _shares(cohort)
    rows, columns = shares.shape
    names = [shortened(name, 22) for name in cohort.class_names]
    cell = (width - 1.5) / columns
    upright = max(map(len, names)) * 0.075 > cell
    head = 0.35 + (max(map(len, names)) * 0.075 if upright else 0.1)
    made = figure(width, head + 0.36 * rows, describe_class_shares(cohort).title)
    axes = made.subplots()
    top = max(float(shares.max()), 1e-9)
    mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=top, edgecolors="white", linewidth=1.5)
    if cell >= 0.16:
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column + 0.5, row + 0.5, _number(share, cell), ha="center", va="center",
                fontsize=8 if cell > 0.3 else 6.5, color="white" if share > 0.6 * top else INK,
            )  # fmt: skip
    else:
        made.colorbar(mesh, ax=axes, label="share of the hospital's images", format="{x:.0%}")
    labels = [f"{site.name}{' (unseen)' * site.unseen}" for site in cohort.sites]
    axes.set_yticks(
        np.arange(rows) + 0.5,
        [
            f"{shortened(label, 20)}\n{thousands(total)} images"
            for label, total in zip(labels, totals, strict=True)
        ],
    )
    axes.set_xticks(np.arange(columns) + 0.5, names, rotation=90 if upright else 0)
    what = "finding" if cohort.task.many else "class"
    axes.set_xlabel(f"{what}; numbers: % of the hospital's images" if cell >= 0.16 else what)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return made


def describe_class_shares(cohort: Cohort) -> Caption:
    """Describe the class shares in words."""
    shares, totals = _shares(cohort)
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    other = int(shares[:, column].argmin())
    name = cohort.class_names[column]
    has = "with" if cohort.task.many else "in class"
    title = f"{cohort.sites[row].name} has {percent(shares[row, column], 0)} of its images {has} {name}"
    if len(cohort.sites) > 1 and other != row:
        title += f", {cohort.sites[other].name} {percent(shares[other, column], 0)}"
    tops = [
        f"{site.name} ({count(int(total), 'image')}): {cohort.class_names[int(line.argmax())]} "
        f"{percent(line.max(), 0)}"
        for site, line, total in zip(cohort.sites, shares, totals, strict=True)
    ]
    what = "Commonest finding" if cohort.task.many else "Largest class"
    return Caption(title, f"{what} of each hospital, {'; '.join(tops)}.")


def _number(share: float, cell: float) -> str:
    if share == 0:
        return "0"
    value = 100 * share
    return "<1" if value < 0.5 and cell > 0.25 else f"{value:.0f}"


def _shares(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of a hospital's images by class or finding, and the hospitals' numbers of images."""
    counts = np.stack(
        [
            sum(split.class_counts(cohort.n_classes).numpy() for split in (site.train, site.val, site.test))
            for site in cohort.sites
        ]
    )
    totals = np.array([len(site.train) + len(site.val) + len(site.test) for site in cohort.sites])
    return counts / np.maximum(totals, 1)[:, None], totals
