"""What learned nothing, in words: constant classifiers, levels no better than guessing, and the likely reason."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from fedmerge.analysis import learning
from fedmerge.study.kinds import REFERENCE
from fedmerge.study.words import listing, percent

MARK = "†"
"""Stands behind the name of a constant classifier where there is no room for words."""
CONSTANT = f"{MARK} one class for every image"
"""What the mark says, beneath."""
NEAR = 0.05
"""How far above naming the commonest class a score is that is no longer near it."""
ARRIVED = 0.01
"""The share of their initial values that is left in running statistics that have arrived."""


def remark(row: Any) -> str:
    """What a line of a table must say of a level: how often it is constant, or that it is at chance.

    row: ``constant`` and ``learned`` as ``analysis.learning`` has them. Empty where there is nothing to say.
    """
    constant = float(row["constant"])
    if constant > 0:
        return f"one class for every image{'' if constant == 1 else f' in {percent(constant, 0)} of its streams'}"
    return "" if row["learned"] else "no better than guessing"


def marked(name: str, constant: float) -> str:
    """The name with a mark where most of its measurements are constant."""
    return f"{name} {MARK}" if constant >= 0.5 else name


def worthless(name: str, row: pd.Series) -> str:
    """Why a gain over a level is none. row: of ``analysis.learning``."""
    if row["constant"] >= 0.5:
        return f"{name} gives every image one class ({_balanced(row)})"
    if not row["learned"]:
        return f"{name} is no better than guessing ({_balanced(row)}, chance {percent(row['chance'])})"
    return (
        f"{name} is right on {percent(row['accuracy'])}, less often than one class for every image would be "
        f"({percent(row['majority'])})"
    )


def no_gain(parts: Sequence[str]) -> str:
    """A clause for references that learned nothing (``worthless``); empty for none."""
    return f"; {listing(list(parts))}, so being above that is no gain" if parts else ""


def nothing_learned(
    table: pd.DataFrame, levels: Sequence[Hashable], what: str, compare: str = "method"
) -> str:
    """The answer where no level is above chance: at which hospitals, by how much, and the likely reason.

    table: clean rows, those of kind ``reference`` and ``alone`` among them where there are some. what: the
    levels in words ("3 fused and adapted models").
    """
    state = learning(_without_guesses(table), compare).reindex(levels)
    low, high, constant = (
        state["balanced"].min(),
        state["balanced"].max(),
        int((state["constant"] >= 0.5).sum()),
    )
    scores = percent(low) if percent(low) == percent(high) else f"{percent(low)} to {percent(high)}"
    sites = listing(list(dict.fromkeys(table["site"])))
    every = "all of them give every image one class" if constant == len(state) > 1 else ""
    every = every or (f"{constant} of them give every image one class" if constant else "")
    if len(state) == 1:
        every = "it gives every image one class" if constant else ""
    sure = f", give or take {percent(2 * state['error'].mean())}" if high > state["chance"].mean() else ""
    head = (
        f"Nothing was learned at {sites}: of {what} none is above chance (balanced accuracy {scores}, chance "
        f"{percent(state['chance'].mean())}{sure}){f'; {every}' if every else ''}."
    )
    return " ".join(part for part in (head, reason(table, levels, compare)) if part)


def lost_places(table: pd.DataFrame, levels: Sequence[Hashable], compare: str = "method") -> str:
    """A sentence on the hospitals at which none of the levels learned anything; empty for none."""
    sites = list(dict.fromkeys(table["site"]))
    lost = []
    for site in sites:
        rows = table[table["site"] == site]
        state = learning(_without_guesses(rows), compare).reindex(levels)
        if not state["learned"].fillna(True).astype(bool).any():
            lost.append(site)
    if not lost or len(lost) == len(sites):
        return ""
    why = reason(table[table["site"].isin(lost)], levels, compare)
    return f" At {listing(lost)} nothing was learned: none of them is above chance there. {why}".rstrip()


def reason(table: pd.DataFrame, levels: Sequence[Hashable], compare: str = "method") -> str:
    """The likely reason why these levels learned nothing, as far as the rows tell; empty where they do not.

    Read off three numbers, each against naming the commonest class: the accuracy in the last epoch of training,
    the validation score at the hospitals that trained, and what is left of batch norms' initial statistics.
    """
    if "training_accuracy" not in table:
        return ""
    rows, guess = _without_guesses(table), table[table["kind"] == REFERENCE]
    rows = rows[rows[compare].isin(levels)]
    alone = [name for name, row in _alone(table).iterrows() if row["learned"]]
    if alone and not rows["kind"].eq("alone").any():
        return (
            f"The likely reason is the merging: by {'itself' if len(alone) == 1 else 'themselves'} "
            f"{listing([str(name).removeprefix('alone:') for name in alone])} "
            f"{'is' if len(alone) == 1 else 'are'} above chance there."
        )
    training, validation = rows["training_accuracy"].mean(), rows["validation"].mean()
    if math.isnan(training):
        return ""
    chance = (1 / rows["classes_present"].astype(float)).mean()
    floor = guess["training_accuracy"].mean() if len(guess) else chance
    if training <= floor + NEAR:
        return (
            f"The likely reason: they did not train. In the last epoch {percent(training)} of the training images "
            f"were right, and naming their commonest class gives {percent(floor)}: more rounds or epochs, or "
            "another learning rate."
        )
    known = guess["validation"].mean() if len(guess) else chance
    if math.isnan(validation):
        return f"In training {percent(training)} of the images were right, so the likely reason is not there."
    if validation > (chance if math.isnan(known) else known) + NEAR:
        return (
            f"The likely reason is the change of hospital: where they trained, {percent(training)} of the training "
            f"images were right and the validation score is {percent(validation)}; it does not carry over."
        )
    return f"The likely reason: {_evaluated(training, validation, rows['initial_statistics'].mean())}"


def _evaluated(training: float, validation: float, left: float) -> str:
    """Why a network is right in training and not in evaluation, at the hospitals that trained."""
    head = f"in training {percent(training)} of the images were right, in evaluation at the same hospitals "
    head += f"the validation score is {percent(validation)}"
    if math.isnan(left):
        return f"{head}: they learned their training images and no more."
    if left > ARRIVED:
        return (
            f"{head}. Training uses a batch's own statistics, evaluation the running ones, and these have not "
            f"arrived: {percent(left)} of their initial values is left. More steps, a larger momentum of batch "
            "norm, or pretrained weights."
        )
    return f"{head}. The running statistics of batch norm do not fit, or they learned their training images alone."


def _without_guesses(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"] != REFERENCE]


def _alone(table: pd.DataFrame) -> pd.DataFrame:
    return learning(table[table["kind"] == "alone"], "method")


def _balanced(row: pd.Series) -> str:
    return f"balanced accuracy {percent(row['balanced'])}"
