"""The figures of the page on fusion: methods beside their parents, against distillation, by fusion images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.pages import Picture
from benchmarks.studies.fusion_scores import CHANCE, ENSEMBLE, ORACLES, PARENTS, Seen, board, folded
from benchmarks.studies.fusion_tables import ONE_HOSPITAL
from benchmarks.studies.one_class import ONE, marked_board, often, told
from fedmerge.analysis import leaderboard
from fedmerge.experiment.formatting import listing, percent
from fedmerge.experiment.summary.unlearned import CONSTANT, MARK, marked
from fedmerge.reports.figures import forest
from fedmerge.reports.figures.forest import describe_forest
from fedmerge.reports.figures.panels import head, line_styles, panels
from fedmerge.reports.figures.style import FAINT, SMALL, WIDE, Caption, message, styled

LINES = ["mean", "rebasin", "ot", "hf", "kf", "distill", ENSEMBLE, "refit-head"]
BY_IMAGES = [*LINES[1:], "kf-gradient"]
LOOK = line_styles([*LINES, "kf-gradient"])
CONTROL = "distill"


def beside_parents(seen: Seen, start: str) -> Picture:
    """Accuracy by number of parents, a panel for each data set and split; every parent is a grey dot."""
    part = seen.of(start=start)
    if part.rows.empty:
        caption = Caption(f"Nothing from this start ({start}) is finished", "There is nothing to draw.")
        return message(WIDE, caption.title), caption
    names = [name for name in LINES if name in set(part.rows["method"])]
    caption = _beside_words(part, names, start)
    return _beside(part, names, caption.title), caption


@styled
def _beside(seen: Seen, names: Sequence[str], title: str) -> Figure:
    numbers = seen.levels("parents")
    settings = [
        (data, split)
        for split in seen.levels("split")
        for data in seen.levels("data")
        if len(seen.of(data=data, split=split).rows)
    ]
    legend = [_line(seen, name) for name in names]
    legend += [Line2D([], [], color=FAINT, marker=".", linestyle="", markersize=5, label="a parent")]
    label = _label(seen.rows_of(*names), ["data", "split", "parents"], "parents")
    made, grid = panels(WIDE, 2.1, len(settings), title, label, legend=legend)
    for axes, (data, split) in zip(grid, settings, strict=True):
        here = seen.of(data=data, split=split)
        _parents(axes, here, numbers)
        for i, name in enumerate(names):
            means = [_mean(here.of(parents=number), name) for number in numbers]
            shift = 0.05 * (i - (len(names) - 1) / 2)
            at = np.arange(len(numbers)) + shift
            axes.plot(at, 100 * np.array(means), markersize=4, linewidth=1.1, **LOOK[name])
            _marks(axes, at, means, [here.of(parents=number).rows_of(name) for number in numbers])
        axes.set_xticks(np.arange(len(numbers)), numbers)
        axes.set_xlim(-0.5, len(numbers) - 0.5)
        axes.set_ylim(-3, 103)
        head(axes, f"{data}, {split}", WIDE, len(settings))
    made.supylabel("accuracy (%)", fontsize=9)
    return made


def _marks(axes: Axes, at: np.ndarray, means: Sequence[float], behind: Sequence[pd.DataFrame]) -> None:
    """Set the mark of constant classifiers above the points that are constant in most of their runs."""
    for x, mean, rows in zip(at, means, behind, strict=True):
        constant, number = often(rows)
        if constant > number / 2:
            axes.annotate(
                MARK, (x, 100 * mean), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=SMALL
            )


def _parents(axes: Axes, here: Seen, numbers: Sequence[str]) -> None:
    for at, number in enumerate(numbers):
        scores = here.single.loc[here.single["parents"] == number, "accuracy"].sort_values().to_numpy()
        spread = np.linspace(-0.3, 0.3, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
        axes.scatter(at + spread, 100 * scores, s=7, color=FAINT, alpha=0.55, linewidths=0, zorder=1.5)


def _mean(here: Seen, method: str) -> float:
    return float(here.rows.loc[here.rows["method"] == method, "accuracy"].mean())


def _beside_words(part: Seen, names: Sequence[str], start: str) -> Caption:
    """The order of the methods over all settings of one start, in words."""
    known = board(part, None)["mean"]
    order = sorted((name for name in [*names, PARENTS] if name in known), key=lambda name: -known[name])
    each = ", ".join(f"{_called(part, name)} {percent(known[name], 0)}" for name in order)
    title = f"Accuracy from {'a shared start' if start == 'shared' else 'independent starts'}: {each}"
    return Caption(title, "Means over data, splits, numbers of parents and seeds.")


def _line(seen: Seen, name: str) -> Line2D:
    return Line2D([], [], markersize=4, linewidth=1.1, label=_called(seen, name), **LOOK[name])


def _called(seen: Seen, name: str) -> str:
    """A method's name, with the mark where most of its measurements are constant."""
    return marked(name, float(seen.rows_of(name)[ONE].mean()))


def _label(rows: pd.DataFrame, place: Sequence[str], text: str) -> str:
    """An axis's label, with the explanation of the mark where a point, or a name, has it."""
    marks = (rows.groupby(["method", *place])[ONE].mean() > 0.5).any()
    return f"{text}; {CONSTANT} in most measurements" if marks else text


def against_control(seen: Seen) -> Picture:
    """Each method that gives one network against distillation, a panel a start."""
    boards = []
    for start in seen.levels("start"):
        table = folded(seen.of(start=start))
        table = table[~table["method"].isin([*ORACLES, CHANCE, ENSEMBLE, PARENTS])]
        if CONTROL in set(table["method"]):
            rows = marked_board(leaderboard(table, "method", CONTROL), table, "method")
            rows.insert(0, "start", f"{start} start")
            boards.append(rows)
    joined = pd.concat(boards, ignore_index=True)
    picture = forest(joined, "method", CONTROL), describe_forest(joined, "method", CONTROL)
    return told(picture, seen.rows, CONTROL, "method")


def by_images(seen: Seen) -> Picture:
    """Accuracy by fusion images, a panel for each number of parents; means over seeds."""
    names = [name for name in BY_IMAGES if name in set(seen.rows["method"])]
    sizes = [size for size in seen.levels("images") if size != ONE_HOSPITAL]
    caption = _images_words(seen, names, sizes)
    return _by_images(seen, names, sizes, caption.title), caption


@styled
def _by_images(seen: Seen, names: Sequence[str], sizes: Sequence[str], title: str) -> Figure:
    at, numbers = np.array([float(size) for size in sizes]), seen.levels("parents")
    legend = [_line(seen, name) for name in names]
    label = _label(seen.rows_of(*names), ["parents", "images"], "fusion images")
    made, grid = panels(WIDE, 2.9, len(numbers), title, label, columns=2, legend=legend)
    for axes, number in zip(grid, numbers, strict=True):
        for name in names:
            rows = board(_only(seen.of(parents=number), name), None, "images").reindex(sizes)
            axes.plot(at, 100 * rows["mean"], markersize=4, linewidth=1.3, **LOOK[name])
            behind = [seen.of(parents=number, images=size).rows_of(name) for size in sizes]
            _marks(axes, at, rows["mean"].tolist(), behind)
        axes.set_xscale("log")
        axes.set_xticks(at, sizes)
        axes.minorticks_off()
        head(axes, f"{number} parents", WIDE, len(numbers), 2)
    made.supylabel("accuracy (%)", fontsize=9)
    return made


def _only(seen: Seen, method: str) -> Seen:
    return seen._replace(rows=seen.rows[seen.rows["method"] == method])


def _images_words(seen: Seen, names: Sequence[str], sizes: Sequence[str]) -> Caption:
    """What each method reaches with the fewest and the most images."""
    ends = {
        size: seen.of(images=size).rows.groupby("method")["accuracy"].mean() for size in (sizes[0], sizes[-1])
    }
    first, last = (ends[size] for size in (sizes[0], sizes[-1]))
    known = [name for name in names if name in first and name in last]
    order = sorted(known, key=lambda name: -last[name])
    each = [f"{name} {percent(first[name], 0)} and {percent(last[name], 0)}" for name in order]
    return Caption(
        f"Accuracy with {sizes[0]} and with {sizes[-1]} images: {listing(each)}", "Means over runs."
    )
