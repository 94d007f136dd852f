"""The map of a federation: hospitals that train, a server that fuses, and the unseen hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from fedmerge.data import Cohort, Site
from fedmerge.experiment.formatting import count, listing
from fedmerge.reports.figures.style import (
    FAINT,
    INK,
    PALETTE,
    SMALL,
    TYPE,
    WIDE,
    Caption,
    drawing,
    picture,
    styled,
    wrapped,
)  # fmt: skip

MOST = 8
BLUE, ORANGE, GREEN = PALETTE[0], PALETTE[3], PALETTE[2]
LINE, PAD, GAP, THUMB = 0.145, 0.09, 0.12, 0.5


@dataclass(frozen=True)
class Box:
    """A box of the map: a heading, lines of small text, perhaps an image, and the colour of its edge."""

    heading: str
    lines: Sequence[str]
    colour: str
    image: Tensor | None = None

    def text(self, width: float) -> list[str]:
        """Return the small text in lines that fit."""
        room = width - 2 * PAD - (THUMB + PAD if self.image is not None else 0)
        return [line for text in self.lines for line in wrapped(text, room, SMALL)]

    def height(self, width: float) -> float:
        """Return the height of the box at this width, in inches."""
        least = THUMB if self.image is not None else 0.0
        return 2 * PAD + max(least, 0.17 + LINE * len(self.text(width)))

    def draw(self, axes: Axes, left: float, top: float, width: float) -> None:
        """Draw the box on a sheet."""
        height = self.height(width)
        axes.add_patch(
            FancyBboxPatch(
                (left, top),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor="white",
                edgecolor=self.colour,
                linewidth=1.4,
            )
        )
        at = left + PAD
        if self.image is not None:
            picture(axes, self.image, at, top + PAD, THUMB)
            at += THUMB + PAD
        axes.text(at, top + PAD, self.heading, fontsize=TYPE, fontweight="bold", va="top")
        for i, line in enumerate(self.text(width)):
            axes.text(at, top + PAD + 0.17 + LINE * i, line, fontsize=SMALL, va="top", color=FAINT)


@styled
def federation_map(cohort: Cohort, width: float = WIDE, each: bool = False) -> Figure:
    """Draw which hospitals train, what passes through the server, and which hospitals receive it.

    each: every hospital is left out in turn, and receives what the others learned.
    """
    training = [_hospital(site, BLUE) for site in cohort.training]
    if len(training) > MOST:
        rest = cohort.training[MOST - 1 :]
        images = sum(len(site.train) for site in rest)
        more = Box(f"and {len(rest)} more hospitals", [count(images, "training image")], BLUE)
        training = [*training[: MOST - 1], more]
    server = Box(
        "Server",
        ["averages weights after each round, then fuses the hospitals' models; sees no image"],
        ORANGE,
    )
    return _draw(cohort, width, each, training, server, _receivers(cohort, each))


def describe_federation_map(cohort: Cohort, each: bool = False) -> Caption:
    """Describe the federation in words."""
    images = sum(len(site.train) for site in cohort.training)
    title = f"{count(len(cohort.training), 'hospital')} train on {count(images, 'image')}"
    if each:
        title = f"{count(len(cohort.training), 'hospital')}, each left out of training in turn"
    elif cohort.unseen:
        title += f"; {listing([site.name for site in cohort.unseen])} sends none and receives the fused model"
    members = [f"{site.name} ({'; '.join(_facts(site))})" for site in cohort.sites]
    return Caption(title, f"Hospitals: {', '.join(members)}.")


def _draw(
    cohort: Cohort, width: float, each: bool, training: list[Box], server: Box, unseen: list[Box]
) -> Figure:
    title = describe_federation_map(cohort, each).title
    if width < 5.5:
        inner = width - 0.2
        columns = [training, [server], unseen]
        total = sum(_stack(column, inner) for column in columns) + 2 * 0.4 + 0.1
        figure, axes = drawing(width, total, title)
        top = 0.05
        for column in columns:
            if column is not training:
                _arrow(axes, (width / 2, top - 0.37), (width / 2, top - 0.03), both=column[0] is server)
            top = _put(axes, column, 0.1, top, inner) + 0.4
        return figure
    side, middle = 0.365 * width, 0.17 * width
    heights = [_stack(training, side), server.height(middle), _stack(unseen, side)]
    total = max(heights) + 0.1
    figure, axes = drawing(width, total, title)
    tops = [(total - height) / 2 for height in heights]
    lefts = [0.1, (width - middle) / 2, width - 0.1 - side]
    top = tops[0]
    for box in training:
        end = (lefts[1], _share(top + box.height(side) / 2, total, tops[1], heights[1]))
        _arrow(axes, (lefts[0] + side, top + box.height(side) / 2), end, both=True)
        top += box.height(side) + GAP
    top = tops[2]
    for box in unseen:
        middle_of = top + box.height(side) / 2
        _arrow(
            axes, (lefts[1] + middle, _share(middle_of, total, tops[1], heights[1])), (lefts[2], middle_of)
        )
        top += box.height(side) + GAP
    for column, left, at, room in zip(
        (training, [server], unseen), lefts, tops, (side, middle, side), strict=True
    ):
        _put(axes, column, left, at, room)
    return figure


def _share(y: float, total: float, top: float, height: float) -> float:
    """Return where on the server's edge an arrow from height y of the sheet ends."""
    return top + height * (0.15 + 0.7 * y / total)


def _stack(boxes: list[Box], width: float) -> float:
    return sum(box.height(width) for box in boxes) + GAP * (len(boxes) - 1)


def _put(axes: Axes, boxes: list[Box], left: float, top: float, width: float) -> float:
    """Draw boxes below each other; return where the last one ends."""
    for box in boxes:
        box.draw(axes, left, top, width)
        top += box.height(width) + GAP
    return top - GAP


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], both: bool = False) -> None:
    axes.annotate(
        "", end, start, zorder=0,
        arrowprops={"arrowstyle": "<|-|>" if both else "-|>", "color": INK if not both else FAINT,
                    "linewidth": 1.6 if not both else 0.9, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 9},
    )  # fmt: skip


def _hospital(site: Site, colour: str) -> Box:
    images = next((s.images for s in (site.train, site.val, site.test) if len(s)), None)
    return Box(site.name, _facts(site), colour, None if images is None else images[0])


def _facts(site: Site) -> list[str]:
    """Return number of images, source and scanner of a hospital in words."""
    sizes = [len(split) for split in (site.train, site.val, site.test)]
    if site.unseen:
        numbers = f"unseen: {count(sum(sizes), 'image')}, none for training"
    else:
        numbers = f"{count(sizes[0], 'image')} to train, {sizes[1]} to validate, {sizes[2]} to test"
    shifts = [f"{look.kind} {look.severity} of 5" for look in site.scanner]
    return [numbers, f"source: {site.source}", *([f"scanner: {', '.join(shifts)}"] if shifts else [])]


def _receivers(cohort: Cohort, each: bool) -> list[Box]:
    if each:
        return [
            Box(
                "Each hospital in turn",
                ["is left out of training and receives what the others learned"],
                GREEN,
            )
        ]
    if not cohort.unseen:
        return [Box("Unseen hospital", ["none is marked in this cohort"], GREEN)]
    boxes = [_hospital(site, GREEN) for site in cohort.unseen]
    if len(boxes) > MOST:
        return [*boxes[: MOST - 1], Box(f"and {len(boxes) - MOST + 1} more unseen hospitals", [], GREEN)]
    return boxes
