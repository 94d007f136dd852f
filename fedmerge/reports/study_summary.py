"""The question and the answer of a study in sentences, and how far the answer can be trusted."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedmerge.analysis import leaderboard
from fedmerge.analysis.cube import finished, severities
from fedmerge.experiment.formatting import count, few, listing, percent, score_text
from fedmerge.experiment.kinds import REFERENCE
from fedmerge.experiment.summary.unlearned import lost_places, nothing_learned, reason, worthless
from fedmerge.reports.figures.panels import metric_words, number_of, plain, signed
from fedmerge.reports.leaderboards import Leaderboards


def study_question(config: Any, leaderboards: Leaderboards | None) -> str:
    """Return the study's own question, or one made of its axes."""
    if getattr(config, "question", ""):
        return str(config.question)
    if leaderboards is None:
        return f"What difference does {plain(str(config.compare))} make?"
    s = leaderboards
    asked = [str(level) for level in s.overall["level"] if s.kinds.get(level) != REFERENCE]
    question = f"Which of {number_of(len(asked), s.compare)} has the best {metric_words(s.metric)}: "
    question += f"{few(asked, 'or')}?"
    varied = [f"{plain(name)} ({few(list(dict.fromkeys(s.leaderboards[name])))})" for name in s.within]
    return question + (f" Asked for every {listing(varied)}." if varied else "")


def study_answer(leaderboards: Leaderboards | None) -> str:
    """Say the answer in a sentence or two: the best level's difference to the reference, with interval.

    No constant classifier, and no level at chance (``analysis.learning``), is called best, and being above
    such a reference is not called a gain. Where no level learned anything, the answer says so, with where and
    why.
    """
    if leaderboards is None:
        return "No job finished, so there is nothing to compare."
    s, whole, ranked = (
        leaderboards,
        leaderboards.whole(leaderboards.overall),
        leaderboards.ranked(leaderboards.overall),
    )
    if whole.empty:
        return f"No level of {plain(s.compare)} finished everywhere, so none can be called best."
    if ranked.empty:
        return _nothing(s, whole)
    return _outcome(s, ranked) + _lost(s, whole)


def _outcome(s: Leaderboards, ranked: pd.DataFrame) -> str:
    """Say which of the levels that learned something is best, and its difference to the reference."""
    best, others = ranked.iloc[0], ranked[ranked["level"] != s.reference]
    if s.reference is None or others.empty:
        return _without_reference(s, ranked)
    reference = s.overall[s.overall["level"] == s.reference].iloc[0]
    row = best if best["level"] != s.reference else others.iloc[0]
    verdict, size = _verdict(s, row["difference"]), score_text(s.metric, reference["mean"])
    against = f"{verdict} {s.reference} with {size}"
    against += _interval(row["difference_low"], row["difference_high"])
    if not reference["worth"]:
        against = f"{worthless([(s.reference, _state(reference))])}, so being above it is no gain"
    many, where, words = _number(s, len(ranked)), over(s), metric_words(s.metric)
    if len(ranked) < len(s.whole(s.overall)):
        many += " above chance"
    if best["level"] != s.reference and len(others) > 1:
        score = score_text(s.metric, row["mean"])
        return f"Of {many} {row['level']} has the best {words}, {score} {where}: {against}."
    if len(others) > 1:  # the reference is the best, so it has learned something
        closest = f"{verdict} it{_interval(row['difference_low'], row['difference_high'])}"
        return (
            f"None of {_number(s, len(others))} beats {s.reference} with {size} {words} {where}: the "
            f"closest, {row['level']}, is {closest}."
        )
    joint = ":" if not reference["worth"] else ","
    return f"{row['level']} reaches {score_text(s.metric, row['mean'])} {words} {where}{joint} {against}."


def _nothing(s: Leaderboards, whole: pd.DataFrame) -> str:
    """Say the answer where no level may be called best."""
    learned, levels = whole[whole["learned"]], list(whole["level"])
    if learned.empty:
        return nothing_learned(_rows(s), levels, _number(s, len(whole)), s.compare)
    row, level = _state(learned.iloc[0]), learned.iloc[0]["level"]
    return (
        f"Of {_number(s, len(whole))} none is right more often {over(s)} than one class for every image "
        f"would be ({percent(row['majority'])}): the most accurate of those above chance, {level}, is right "
        f"on {percent(row['accuracy'])}, with balanced accuracy {percent(row['balanced'])} where chance is "
        f"{percent(row['chance'])}."
    )


def _lost(s: Leaderboards, whole: pd.DataFrame) -> str:
    """Say in which settings, or else at which hospitals, nothing was learned; "" for none."""
    levels = list(whole["level"])
    leaderboards = {key: s.whole(s.board(key)) for key in s.strata}
    lost = [key for key, board in leaderboards.items() if not board.empty and not board["learned"].any()]
    if not lost:
        return lost_places(_rows(s), levels, s.compare)
    rows = _clean(s.table)
    there = pd.MultiIndex.from_frame(rows[list(s.within)]).isin(pd.MultiIndex.from_tuples(lost))
    why = reason(pd.concat([rows[there], s.guesses]), levels, s.compare)
    named = few([", ".join(key) for key in lost])
    return f" In {named} nothing was learned: none is above chance there. {why}".rstrip()


def _clean(table: pd.DataFrame) -> pd.DataFrame:
    done = finished(table)
    return done[severities(done) == 0]


def _rows(s: Leaderboards) -> pd.DataFrame:
    """Return the clean rows, with those of the majority class."""
    done = _clean(s.folded)
    return done if s.kinds else pd.concat([done, s.guesses])


def _state(row: pd.Series) -> pd.Series:
    """Return a leaderboard's line as ``analysis.learning`` has it."""
    return row.rename({"balanced_accuracy": "balanced"})


def caution(leaderboards: Leaderboards) -> str:
    """Say how many comparisons there are, how many intervals exclude zero, and how many would by chance."""
    s = leaderboards
    if s.reference is None:
        return "No reference was named; the best was picked on these very scores, so its lead is flattered."
    if not s.overall.loc[s.overall["level"] == s.reference, "worth"].all():
        return f"{s.reference}, the reference, learned nothing: a difference to it says nothing of a gain."
    rows = s.tried(s.leaderboards)
    rows = rows[rows["level"] != s.reference].dropna(subset=["difference_low", "difference_high"])
    number = len(rows)
    if not number:
        return (
            "One seed and one hospital give no interval: how much of a difference is chance cannot be told."
        )
    near, far = ("difference_low", "difference_high") if s.sign > 0 else ("difference_high", "difference_low")
    better, worse = int((s.sign * rows[near] > 0).sum()), int((s.sign * rows[far] < 0).sum())
    made = f"{count(number, 'comparison')} with {s.reference}{f' in {s.over_strata}' if s.within else ''}, "
    made += "each with its own 95\u00a0% interval" if number > 1 else "with a 95\u00a0% interval"
    chance = f"{0.05 * number:.1f}".removesuffix(".0") if number < 60 else f"{0.05 * number:.0f}"
    luck = (
        f" If nothing made a difference, about {chance} of {number} would still exclude zero."
        if number > 1
        else ""
    )
    picked = " The best was picked on these very scores, so its lead is a little flattered."
    return (
        f"{made}: {better} better, {worse} worse, {number - better - worse} with an interval that includes "
        f"no difference.{luck}{picked if len(s.tried(s.overall)) > 2 else ''}"
    )


def over(leaderboards: Leaderboards) -> str:
    """Say what the overall means are over: ``on average over 3 seeds, 4 hospitals and 2 streams``."""
    done = finished(leaderboards.table)
    numbers = {"seed": done["seed"].nunique(), "hospital": finished(leaderboards.folded)["site"].nunique()}
    parts = [count(number, thing) for thing, number in numbers.items() if number > 1]
    parts += [count(done["stream"].nunique(), "stream")] if done["stream"].nunique() > 1 else []
    parts += [leaderboards.over_strata] if leaderboards.within else []
    return f"on average over {listing(parts)}" if parts else "with one seed at one hospital"


def _without_reference(s: Leaderboards, ranked: pd.DataFrame) -> str:
    best = ranked.iloc[0]
    score = score_text(s.metric, best["mean"])
    head = f"{best['level']} has the best {metric_words(s.metric)}, {score}, {over(s)}"
    if len(ranked) == 1:
        others = "nothing else is there to compare it with"
        if len(s.whole(s.overall)) > 1:
            others = "nothing else is above chance"
        return f"{head}; {others}."
    second = ranked.iloc[1]["level"]
    again = leaderboard(s.folded, s.compare, second, s.metric).set_index("level").loc[best["level"]]
    interval = _interval(again["difference_low"], again["difference_high"])
    verdict = _verdict(s, again["difference"])
    return f"Of {_number(s, len(ranked))} {head}: {verdict} the next, {second}{interval}."


def _number(s: Leaderboards, levels: int) -> str:
    """Count levels in words: ``4 fused and adapted methods``, or ``3 levels of training``."""
    return f"{levels} fused and adapted methods" if s.kinds else number_of(levels, s.compare)


def _verdict(s: Leaderboards, difference: float) -> str:
    """Say a difference in words: ``2.1 points better than``, ``level with``."""
    size = f"{abs(100 * difference):.1f}"
    if size == "0.0":
        return "level with"
    unit, side = "point" if size == "1.0" else "points", "better" if s.sign * difference > 0 else "worse"
    return f"{size} {unit} {side} than"


def _interval(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return " (no interval: one seed, one hospital)"
    unsure = ", which includes no difference" if low <= 0 <= high else ""
    return f" (95\u00a0% interval of the difference {signed(low)} to {signed(high)}{unsure})"
