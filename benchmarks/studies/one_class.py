"""Constant classifiers among kept scores: which rows they are, the marks of cells, what stands beside them.

The scores that are kept of a study do not say what a model answered. One class for every image is right on
all images of that class and on none of the others: with K classes its balanced accuracy is exactly 1 / K.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from benchmarks.pages import DIGITS, Picture
from fedmerge.experiment.formatting import count, listing, percent, thousands
from fedmerge.experiment.summary.unlearned import CONSTANT, MARK
from fedmerge.workflows.bench.study import Study

ONE, CLASSES = "one_class", "auroc_classes"
RULE = "judged by a balanced accuracy of exactly 1 / K with K classes, in the four digits that are kept"
SAME = 1e-9
NO_GAIN = "Being above one that gives one class is no gain."


def one_class(table: pd.DataFrame) -> pd.Series:
    """Return for each row whether its model answers one class: a balanced accuracy of exactly 1 / K.

    table: ``balanced_accuracy`` in the digits of the CSVs (``pages.as_saved``), and ``auroc_classes``, K.
    False where K is not known.
    """
    if CLASSES not in table:
        return pd.Series(False, index=table.index)
    chance = [float(f"{1 / k:{DIGITS}}") if k > 1 else math.nan for k in table[CLASSES].astype(float)]
    return (table["balanced_accuracy"].astype(float) - chance).abs() < SAME


def judged(study: Study) -> Study:
    """Return the study with the column ``one_class``."""
    return replace(study, table=study.table.assign(**{ONE: one_class(study.table)}))


def often(rows: pd.DataFrame) -> tuple[int, int]:
    """Return how many of these rows are constant classifiers, and how many there are."""
    return int(rows[ONE].sum()), len(rows)


def scored(text: str, rows: pd.DataFrame) -> str:
    """Return a score's cell with the mark and "n/m" where n of the m rows behind it are constant."""
    n, m = often(rows)
    return f"{text} {MARK} {n}/{m}" if n and text else text


def paired(text: str, *sides: pd.DataFrame) -> str:
    """Return a difference's cell with the mark where a row on either side is constant."""
    return f"{text} {MARK}" if text and any(often(rows)[0] for rows in sides) else text


def noted(table: str, rows: pd.DataFrame, references: Sequence[str] = (), compare: str = "method") -> str:
    """Return a table with a footnote on its marks, where it has any: how many in all, of each reference.

    rows: those behind the table. references: the levels of ``compare`` that differences are taken from.
    """
    if MARK not in table:
        return table
    n, m = often(rows)
    parts = [f"{each} {'/'.join(map(str, often(rows[rows[compare] == each])))}" for each in references]
    beside = f"; in differences: {', '.join(parts)}" if parts else ""
    return (
        f"{table}\n\n{CONSTANT}: n/m, in n of the m measurements behind a score; at a difference, in at "
        f"least one on either side. In this table {thousands(n)} of {thousands(m)} measurements{beside}."
    )


def named(rows: pd.DataFrame, methods: Mapping[str, str], where: str = "") -> str:
    """Return a sentence on how often each of these methods is constant; empty where none is.

    methods: what each is called in the sentence. where: of which images, in words.
    """
    own = {words: rows[rows["method"] == name] for name, words in methods.items()}
    if not any(often(part)[0] for part in own.values()):
        return ""
    told = listing([often_words(words, part) for words, part in own.items() if len(part)])
    return f"One class for every image{where}: {told} measurements."


def often_words(name: str, rows: pd.DataFrame) -> str:
    """``mean in 3 of 12``."""
    n, m = often(rows)
    return f"{name} in {thousands(n)} of {thousands(m)}"


def marked_board(
    board: pd.DataFrame, rows: pd.DataFrame, compare: str, within: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a leaderboard with ``constant``, the share of constant rows; figures mark levels by it."""
    names = [*within, "level"]
    shares = rows.groupby([*within, compare])[ONE].mean().rename("constant").rename_axis(names)
    return board.drop(columns="constant", errors="ignore").merge(shares.reset_index(), how="left", on=names)


def told(picture: Picture, rows: pd.DataFrame, reference: str, compare: str) -> Picture:
    """Return a figure of differences that says how often the reference is a constant classifier.

    It stands in the caption's title and, as one more line, above the figure's legend.
    """
    own = rows[rows[compare] == reference]
    made, caption = picture
    if not often(own)[0]:
        return picture
    words = f"one class for every image: {often_words(reference, own)} measurements"
    for legend in made.legends[:1]:
        title = legend.get_title()
        title.set_text(f"{title.get_text()}\n{words}")
    return made, caption._replace(title=f"{caption.title}; {words}")


def largest_class(rows: pd.DataFrame) -> float:
    """Return the share of one test set's commonest class, from its constant classifiers; NaN if not told.

    The accuracy of one is the share of its class, and shares add up to one. So the largest share seen is the
    largest there is where no more than it is left; and one class left has what is left.
    """
    shares = rows.loc[rows[ONE], "accuracy"].unique()
    if not len(shares):
        return math.nan
    left, top = 1 - float(shares.sum()), float(shares.max())
    if len(shares) == int(rows[CLASSES].max()) - 1:
        return max(left, top)
    return top if left <= top else math.nan


def collapsed(parts: Iterable[tuple[str, pd.DataFrame, Sequence[str]]]) -> str:
    """Say for each data set which methods are constant and how often, and what the commonest class gives.

    parts: a data set's name, its rows, ``method`` as it is to be called, and the columns that tell its test
    sets apart.
    """
    head = (
        f"**Constant classifiers** ({MARK}) give every image one class, {RULE}. Naming the commonest class "
        "is at least as good, so being above one is no gain. A measurement is a row of the scores; n/m: n of "
        "m of them."
    )
    tail = (
        "Scores hold no class counts. The accuracy of naming the commonest class is known where constant "
        "classifiers tell it: theirs is the share of a class, and the largest seen is the largest there is "
        "once no more than it is left."
    )
    return "\n\n".join([head, "\n".join(_line(*part) for part in parts), tail])


def _line(name: str, rows: pd.DataFrame, sets: Sequence[str]) -> str:
    if CLASSES not in rows or rows[CLASSES].isna().all():
        return f"- **{name}**: the number of classes is not known, so nothing could be looked for."
    (n, m), chance = often(rows), percent(1 / float(rows[CLASSES].max()))
    by_method = rows.groupby("method", sort=False)[ONE].agg(["sum", "size"])
    by_method = by_method[by_method["sum"] > 0]
    order = (by_method["sum"] / by_method["size"]).sort_values(ascending=False, kind="stable").index
    who = [f"{each} {by_method.loc[each, 'sum']:.0f}/{by_method.loc[each, 'size']:.0f}" for each in order]
    found = f"{thousands(n)} of {thousands(m)} measurements{': ' if who else ''}{', '.join(who)}"
    return f"- **{name}**: {found}. Commonest class: balanced accuracy {chance}, {_commonest(rows, sets)}."


def _commonest(rows: pd.DataFrame, sets: Sequence[str]) -> str:
    """Say the accuracy of the commonest class, for the test sets where constant classifiers tell it."""
    shares = [largest_class(part) for _, part in rows.groupby(list(sets), sort=False)]
    known = [share for share in shares if not math.isnan(share)]
    if not known:
        return "accuracy not told"
    mean, number = percent(sum(known) / len(known)), count(len(shares), "test set")
    if len(known) == len(shares):
        return f"accuracy {mean} (mean of {number})" if len(known) > 1 else f"accuracy {mean}"
    return f"accuracy {mean} in {len(known)} of {number}, of the others not told"
