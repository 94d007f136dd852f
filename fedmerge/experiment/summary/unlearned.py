"""Words for models that learned nothing: constant classifiers, levels at chance, and the likely reasons."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from fedmerge.analysis import learning, learning_at
from fedmerge.analysis.chance import of_findings
from fedmerge.experiment.formatting import few, listing, percent
from fedmerge.experiment.kinds import REFERENCE

MARK = "†"
"""The mark behind the name of a constant classifier where there is no room for words."""
CONSTANT = f"{MARK} one class for every image"
"""The explanation of the mark, set beneath."""
NEAR = 0.05
"""A score further than this above that of naming the commonest class is no longer near it."""
ARRIVED = 0.01
"""Running statistics have converged when at most this share of their initial values is left."""
RANKS = 0.7
"""From this AUROC on, scores tell classes apart, whatever class has the highest."""


def remark(row: Any) -> str:
    """Say for a table's line how often a level is constant, or that it is at chance.

    row: ``constant`` and ``learned`` as ``analysis.learning`` has them. Empty where there is nothing to say.
    """
    constant = float(row["constant"])
    if constant > 0:
        often = "" if constant == 1 else f" in {percent(constant, 0)} of its measurements"
        return f"one class for every image{often}"
    return "" if row["learned"] else "no better than guessing"


def marked(name: str, constant: float) -> str:
    """Return the name, with the mark where most of its measurements are constant."""
    return f"{name} {MARK}" if constant > 0.5 else name


def worthless(known: Sequence[tuple[str, Any]]) -> str:
    """Say why a gain over these levels counts for nothing; empty for no level.

    known: each name with its line of ``analysis.learning``.
    """
    constant = [pair for pair in known if pair[1]["constant"] > 0.5]
    chance = [pair for pair in known if pair[1]["constant"] <= 0.5 and not pair[1]["learned"]]
    below = [pair for pair in known if pair[1]["learned"]]
    parts = []
    if constant:
        often = _often([row["constant"] for _, row in constant])
        parts.append(f"{_they(constant, 'gives')} every image one class{often} ({_scores(constant)})")
    if chance:
        floor = _span([row["chance"] for _, row in chance])
        parts.append(f"{_they(chance, 'is')} no better than guessing ({_scores(chance)}, chance {floor})")
    for name, row in below:
        parts.append(
            f"{name} is right on {percent(row['accuracy'])}, no more often than one class for every image "
            f"({percent(row['majority'])})"
        )
    return listing(parts) if parts else ""


def no_gain(known: Sequence[tuple[str, Any]]) -> str:
    """Return a clause on references that are worth nothing (``worthless``); empty for none."""
    return f"; {worthless(known)}, so being above that is no gain" if known else ""


def _they(known: Sequence[tuple[str, Any]], verb: str) -> str:
    plural = {"gives": "give", "is": "are"}[verb]
    return f"{listing([name for name, _ in known])} {verb if len(known) == 1 else plural}"


def _scores(known: Sequence[tuple[str, Any]]) -> str:
    named = "AUROC" if known[0][1].get("many", 0) else "balanced accuracy"
    return f"{named} {_span([row['balanced'] for _, row in known])}"


def _often(constant: Sequence[float]) -> str:
    return "" if all(share == 1 for share in constant) else " in most measurements"


def _span(shares: Sequence[float]) -> str:
    """``25.0 %``, or ``25.0 % to 28.6 %``."""
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"


def nothing_learned(
    table: pd.DataFrame, levels: Sequence[Hashable], what: str, compare: str = "method"
) -> str:
    """Say the answer where no level is above chance: hospitals, scores and the likely reason.

    table: clean rows, those of kind ``reference`` and ``alone`` among them where there are some. what: the
    levels in words ("3 fused and adapted models").
    """
    every = learning(_without_guesses(table), compare)
    state = every.reindex(list(levels))
    constant = state[state["constant"] > 0.5]
    places = _lost(table, levels, compare) or list(dict.fromkeys(table["site"]))
    chance, sites = state["chance"].mean(), few(places)
    same = f"; {_how_many(len(constant), len(state))} every image one class" if len(constant) else ""
    same += _often(constant["constant"].tolist())
    sure = f", give or take {percent(2 * state['error'].mean())}" if state["balanced"].max() > chance else ""
    known = [(str(name), row) for name, row in state.iterrows()]
    what = f"of {what} none is above chance ({_scores(known)}, chance {percent(chance)}{sure}){same}"
    others = every[every["learned"] & ~every.index.isin(levels)]
    others = others[~others.index.astype(str).str.startswith("alone:")]
    head = f"Nothing was learned at {sites}: {what}."
    if len(others):
        known = [(str(name), row) for name, row in others.iterrows()]
        head = f"At {sites} {what}. {_they(known, 'is')} above chance ({_scores(known)})."
    area = _area(table[table[compare].isin(levels)], compare)
    if area >= RANKS:
        told = "the scores still tell classes apart, and what collapsed is the decision"
        return f"At {sites} {what}. AUROC is up to {area:.2f}: {told}."
    return " ".join(part for part in (head, reason(table, levels, compare)) if part)


def _area(rows: pd.DataFrame, compare: str) -> float:
    """Return the highest mean AUROC of a level; NaN without any."""
    return float(rows.groupby(compare)["auroc"].mean().max()) if "auroc" in rows else math.nan


def _how_many(constant: int, levels: int) -> str:
    if levels == 1:
        return "it gives"
    if constant == levels:
        return "all of them give"
    return f"{constant} of them {'gives' if constant == 1 else 'give'}"


def lost_places(table: pd.DataFrame, levels: Sequence[Hashable], compare: str = "method") -> str:
    """Return a sentence on the hospitals at which no level learned anything; empty for none."""
    lost = _lost(table, levels, compare)
    if not lost or len(lost) == table["site"].nunique():
        return ""
    why = reason(table[table["site"].isin(lost)], levels, compare)
    return f" At {few(lost)} nothing was learned: none of them is above chance there. {why}".rstrip()


def _lost(table: pd.DataFrame, levels: Sequence[Hashable], compare: str) -> list[str]:
    """Return the hospitals at which no level is above chance."""
    known = learning_at(_without_guesses(table), compare)["learned"]
    here = known[known.index.get_level_values(0).isin(levels)].groupby("site").any()
    return [str(site) for site in dict.fromkeys(table["site"]) if not here.get(site, True)]


def reason(table: pd.DataFrame, levels: Sequence[Hashable], compare: str = "method") -> str:
    """Say the likely reason why these levels learned nothing; empty where the rows do not tell.

    It rests on three numbers: the accuracy in the last epoch of training and the validation score at the
    hospitals that trained, both compared with the majority class (not where images have several findings,
    most of which are absent), and the share left of batch norms' initial statistics. Where a hospital alone
    is above chance, the reason is the merging.
    """
    if "training_accuracy" not in table:
        return ""
    rows, guess = _without_guesses(table), table[table["kind"] == REFERENCE]
    rows = rows[rows[compare].isin(levels)]
    alone = [name for name, row in _alone(table).iterrows() if row["learned"]]
    if alone and not rows["kind"].eq("alone").any():
        return (
            f"The likely reason is the merging: by {'itself' if len(alone) == 1 else 'themselves'} "
            f"{few([str(name).removeprefix('alone:') for name in alone])} "
            f"{'is' if len(alone) == 1 else 'are'} above chance there."
        )
    training, validation = rows["training_accuracy"].mean(), rows["validation"].mean()
    if math.isnan(training) or of_findings(rows).any():
        return ""
    chance = (1 / rows["classes_present"].astype(float)).mean()
    floor = guess["training_accuracy"].mean() if len(guess) else chance
    if training <= floor + NEAR:
        return (
            f"The likely reason: they did not train. In the last epoch {percent(training)} of the training "
            f"images were right, and naming their commonest class gives {percent(floor)}: more rounds or "
            "epochs, or another learning rate."
        )
    known = guess["validation"].mean() if len(guess) else chance
    if math.isnan(validation):
        return f"In training {percent(training)} of the images were right; the likely reason is not there."
    if validation > (chance if math.isnan(known) else known) + NEAR:
        return (
            f"The likely reason is the change of hospital: where they trained, {percent(training)} of the "
            f"training images were right and the validation score is {percent(validation)}; it does not "
            "carry over."
        )
    left = _without_guesses(table)["initial_statistics"].mean()
    return f"The likely reason: {_evaluated(training, validation, left)}"


def _evaluated(training: float, validation: float, left: float) -> str:
    """Say why a network is right in training, but not in evaluation, at the hospitals that trained."""
    head = f"in training {percent(training)} of the images were right, in evaluation at the same hospitals "
    head += f"the validation score is {percent(validation)}"
    if math.isnan(left):
        return f"{head}: they learned their training images and no more."
    if left > ARRIVED:
        return (
            f"{head}. Training uses a batch's own statistics, evaluation the running ones, and these have "
            f"not arrived: {percent(left)} of their initial values is left. More steps, a larger momentum of "
            "batch norm, or pretrained weights."
        )
    return f"{head}. The running statistics of batch norm do not fit, or they learned those images alone."


def _without_guesses(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"] != REFERENCE]


def _alone(table: pd.DataFrame) -> pd.DataFrame:
    return learning(table[table["kind"] == "alone"], "method")
