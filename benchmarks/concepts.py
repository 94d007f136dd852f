"""The page docs/concepts.md: three ways of merging, a picture each, with what our studies measured.

``python -m benchmarks.concepts --out docs/concepts.md`` draws the pictures and writes the numbers in seconds,
from the kept scores: benchmarks/results, and docs/studies/in-model-merging/numbers.json.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from benchmarks import RESULTS, ROOT
from benchmarks.pages import fill
from benchmarks.studies.standing import standings
from benchmarks.studies.unseen_scores import AGAIN, FEDERATED, SCRATCH, board, read
from fedmerge.experiment.formatting import listing
from fedmerge.reports.figures import style
from fedmerge.reports.figures.panels import signed
from fedmerge.reports.figures.style import FAINT, INK, PALE, PALETTE, REFERENCE, SMALL

NUMBERS = ROOT / "docs" / "studies" / "in-model-merging" / "numbers.json"
BLUE, ORANGE, GREEN, RED = PALETTE[:4]
SKETCH, HEIGHT = 3.7, 2.75
"""Inches: the width of a sketch, beside which the measured differences stand, and the height of both."""
INMERGE = {
    "inmerge": "threshold 0.3 (paper)",
    "inmerge-0.1": "threshold 0.1",
    "inmerge-0.05": "threshold 0.05",
}
FUSION = {"kf": "kf", "ot": "ot", "distill": "distill", "ensemble-logits": "ensemble"}
STARTS = {"start shared": "one start", "start independent": "own starts"}
NODE = ("mean", "entropy-adaptive", "stream-adaptive", "t3a")
NETWORKS = {"from scratch": SCRATCH, "pretrained": AGAIN}


class Line(NamedTuple):
    """A paired difference with its 95 % interval, as shares."""

    label: str
    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The difference in points, with its interval."""
        return f"{self.label} {signed(self.value)} ({signed(self.low)} to {signed(self.high)})"


def inmerge_lines() -> list[Line]:
    """Return AUROC against plain fine-tuning, over all settings of the study."""
    rows = {row["level"]: row for row in json.loads(NUMBERS.read_text(encoding="utf-8"))["bench-inmerge"]}
    return [
        Line(words, *(rows[level][name] for name in ("difference", "difference_low", "difference_high")))
        for level, words in INMERGE.items()
    ]


def fusion_lines() -> list[Line]:
    """Return balanced accuracy against mean merging, by start of the parents."""
    found = [
        line for name in ("kf", "ot", "distill", "ensemble-logits") for line in standings()["fusion", name]
    ]
    at = {(line.where, line.label): line for line in found if line.study == "bench-fusion"}
    return [
        Line(f"{words}, {short}", *at[where, label].difference)
        for where, short in STARTS.items()
        for label, words in FUSION.items()
    ]


def node_lines() -> list[Line]:
    """Return balanced accuracy against the federated model at unseen hospitals, by kind of network."""
    lines = []
    for words, parts in NETWORKS.items():
        known = board(read(RESULTS, parts), FEDERATED)
        for label in NODE:
            row = known.loc[label]
            found = (row[name] for name in ("difference", "difference_low", "difference_high"))
            lines.append(Line(f"{label}, {words}", *found))
    return lines


def box(sheet: Axes, left: float, top: float, width: float, height: float, colour: str = PALE) -> None:
    """Draw a rounded box."""
    shape = "round,pad=0,rounding_size=0.06"
    sheet.add_patch(FancyBboxPatch((left, top), width, height, shape, fc="white", ec=colour, lw=1.3))


def say(
    sheet: Axes, x: float, y: float, words: str, colour: str = INK, size: float = SMALL, **how: Any
) -> None:
    """Write words, centred unless told."""
    sheet.text(x, y, words, color=colour, fontsize=size, **({"ha": "center", "va": "center"} | how))


def arrow(
    sheet: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = FAINT, bend: float = 0
) -> None:
    """Draw an arrow."""
    look = f"arc3,rad={bend}"
    sheet.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=8, lw=1.2, color=colour, connectionstyle=look
        )
    )


def network(sheet: Axes, left: float, top: float, colours: Sequence[str], side: float = 0.15) -> None:
    """Draw a network: three layers of four neurons, each in its colour."""
    for layer in range(3):
        for row, colour in enumerate(colours):
            place = (left + layer * side * 1.5, top + row * side * 1.25)
            sheet.add_patch(
                Rectangle(place, side, side, fc=colour, ec="white", lw=0.5, alpha=1 - 0.25 * layer)
            )


def draw_in_model(sheet: Axes) -> None:
    """Two filters of one layer that are alike move towards each other while the network trains."""
    box(sheet, 0.15, 0.1, 3.3, 2.5, BLUE)
    say(sheet, 1.8, 0.3, "one hospital, while its network trains", BLUE)
    kinds = (0, 1, 2, 0, 3)
    for number, kind in enumerate(kinds):
        left, alike = 0.4 + 0.6 * number, kind == 0
        for row in range(3):
            for column in range(3):
                dark = (
                    (kind == 0 and column == 1) or (kind == 1 and row == 0) or (kind == 2 and row == column)
                )
                dark = dark or (kind == 3 and row + column == 2)
                shade = (ORANGE if alike else REFERENCE) if dark else PALE
                sheet.add_patch(
                    Rectangle((left + 0.13 * column, 1.0 + 0.13 * row), 0.13, 0.13, fc=shade, ec="white")
                )
    say(sheet, 1.8, 0.72, "the filters of one layer", FAINT)
    arrow(sheet, (0.6, 1.5), (2.4, 1.5), ORANGE, 0.45)
    arrow(sheet, (2.4, 1.5), (0.6, 1.5), ORANGE, -0.45)
    say(sheet, 1.5, 2.12, "alike: cosine above a threshold")
    say(sheet, 1.5, 2.34, "K ← α K + (1 − α) K′", RED)


def draw_fusion(sheet: Axes) -> None:
    """Networks with their neurons in other orders, matched and averaged once by a server."""
    say(sheet, 0.62, 0.15, "hospitals' networks", BLUE)
    say(sheet, 2.95, 0.72, "one network", GREEN)
    for number, order in enumerate(((0, 1, 2, 4), (2, 0, 4, 1), (4, 2, 1, 0))):
        top = 0.32 + 0.8 * number
        network(sheet, 0.3, top, [PALETTE[each] for each in order])
        arrow(sheet, (1.0, top + 0.35), (1.4, 1.4))
    box(sheet, 1.4, 1.05, 0.85, 0.7, ORANGE)
    say(sheet, 1.825, 1.4, "server:\nmatch,\naverage", RED)
    arrow(sheet, (2.25, 1.4), (2.6, 1.4))
    network(sheet, 2.65, 1.02, [PALETTE[each] for each in (0, 1, 2, 4)])
    say(sheet, 2.95, 2.0, "once,\nafter training", FAINT)


def draw_test_time(sheet: Axes) -> None:
    """The unseen hospital mixes the same networks anew for each batch."""
    say(sheet, 1.85, 0.14, "the unseen hospital, batch after batch, without labels", GREEN)
    names = ("north", "coast", "river")
    for number, mix in enumerate(((0.6, 0.3, 0.1), (0.2, 0.2, 0.6), (0.1, 0.8, 0.1))):
        top, left = 0.38 + 0.72 * number, 1.35
        for image in range(3):
            shade = str(0.35 + 0.2 * number + 0.05 * image)
            sheet.add_patch(Rectangle((0.15 + 0.2 * image, top + 0.08), 0.17, 0.3, fc=shade, ec="white"))
        say(sheet, 0.44, top + 0.5, f"batch {number + 1}", FAINT)
        arrow(sheet, (0.8, top + 0.23), (1.3, top + 0.23))
        for share, colour in zip(mix, PALETTE, strict=False):
            sheet.add_patch(Rectangle((left, top + 0.06), 1.2 * share, 0.34, fc=colour, ec="white"))
            left += 1.2 * share
        arrow(sheet, (2.6, top + 0.23), (2.95, top + 0.23))
        say(sheet, 3.28, top + 0.23, "answers", INK)
    for number, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
        say(sheet, 1.5 + 0.5 * number, 2.6, f"■ {name}", colour)


class Concept(NamedTuple):
    """A picture: its title, its sketch, what was measured, and against what."""

    title: str
    sketch: Callable[[Axes], None]
    lines: Callable[[], list[Line]]
    axis: str


CONCEPTS = {
    "in-model-merging": Concept(
        "In-model merging: alike filters of one network move together while it trains",
        draw_in_model, inmerge_lines, "AUROC, points over plain fine-tuning",
    ),
    "fusion": Concept(
        "Fusion: a server makes one network of those that the hospitals trained",
        draw_fusion, fusion_lines, "balanced accuracy, points over the mean of the weights",
    ),
    "test-time-merging": Concept(
        "Test-time merging: the networks are mixed anew for every batch that arrives",
        draw_test_time, node_lines, "balanced accuracy, points over the federated model",
    ),
}  # fmt: skip


@style.styled
def picture(concept: Concept) -> Figure:
    """Draw a sketch, and beside it what was measured."""
    made, sheet = style.drawing(style.WIDE, HEIGHT, concept.title)
    concept.sketch(sheet)
    height = HEIGHT / made.get_size_inches()[1]
    axes = made.add_axes((0.735, 0.20 * height, 0.25, 0.72 * height))
    lines = concept.lines()
    for row, line in enumerate(lines):
        sure = line.low > 0 or line.high < 0
        colour = BLUE if sure and line.value > 0 else RED if sure else REFERENCE
        axes.plot([100 * line.low, 100 * line.high], [row, row], color=colour, lw=1.6)
        axes.plot([100 * line.value], [row], "o" if sure else "s", color=colour, ms=4.5)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set(ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)), xlabel=concept.axis)
    axes.set_yticklabels([line.label for line in lines], fontsize=SMALL)
    axes.xaxis.label.set_fontsize(SMALL)
    axes.xaxis.set_label_coords(0.5 if len(concept.axis) < 40 else 0.2, -0.14)
    axes.tick_params(axis="x", labelsize=SMALL)
    return made


def blocks() -> dict[str, str]:
    """Return the sentences with numbers, by the page's markers."""
    inmerge, fused, node = inmerge_lines(), fusion_lines(), node_lines()
    half = len(FUSION)
    return {
        "in-model-merging": f"AUROC over plain fine-tuning, in points: {_said(inmerge)}.",
        "fusion": "Balanced accuracy over the mean of the weights, in points. Parents from one start: "
        f"{_said(fused[:half])}. From starts of their own: {_said(fused[half:])}.",
        "test-time-merging": "Balanced accuracy over the federated model, in points. Networks from scratch: "
        f"{_said(node[: len(NODE)])}. Pretrained networks: {_said(node[len(NODE) :])}.",
    }


def _said(lines: Sequence[Line]) -> str:
    kinds = (*STARTS.values(), *NETWORKS)
    return listing(
        [
            functools.reduce(lambda text, kind: text.replace(f", {kind}", ""), kinds, line.text)
            for line in lines
        ]
    )


def alt(name: str) -> str:
    """Return a picture in words."""
    concept = CONCEPTS[name]
    return f"{concept.title}. Beside the sketch, differences with 95 % intervals in {concept.axis}"


def write(page: Path) -> None:
    """Write the pictures into the folder of the page's name, and the page's blocks."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    found = blocks()
    for name, concept in CONCEPTS.items():
        (folder / f"{name}.svg").write_bytes(style.render(picture(concept), "svg"))
        found[name] = f"![{alt(name)}]({folder.name}/{name}.svg)\n\n{found[name]}"
    page.write_text(fill(page.read_text(encoding="utf-8"), found), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page's numbers and pictures anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the page")
    write(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
