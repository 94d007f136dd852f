"""The question and the answer of an experiment in a sentence or two, from configuration and table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis import learning, ranking_metric
from fedmerge.analysis.cube import with_interval
from fedmerge.analysis.metrics import scale_of
from fedmerge.data import Cohort
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.formatting import count, few, listing, percent, score_text
from fedmerge.experiment.kinds import TRIED
from fedmerge.experiment.summary.unlearned import lost_places, no_gain, nothing_learned, remark
from fedmerge.tasks import TASKS


@dataclass(frozen=True)
class Difference:
    """Mean score of one method minus another's, in percentage points, paired by seed, site and stream.

    low, high: the 95 % interval of ``crossed_interval``; None for one seed and one site.
    """

    points: float
    low: float | None = None
    high: float | None = None

    def words(self, other: str) -> str:
        """Say the difference: ``loses 3.2 points to mean merging``, and the interval if there is one."""
        size = f"{abs(self.points):.1f} {'point' if f'{abs(self.points):.1f}' == '1.0' else 'points'}"
        if size.startswith("0.0 "):
            verdict = f"is level with {other}"
        else:
            verdict = f"gains {size} on {other}" if self.points > 0 else f"loses {size} to {other}"
        if self.low is None or self.high is None:
            return verdict
        unsure = ", which includes no difference" if self.low <= 0 <= self.high else ""
        interval = f"95\u00a0% interval {_signed(self.low)} to {_signed(self.high)}{unsure}"
        return f"{verdict[:-1]}; {interval})" if verdict.endswith(")") else f"{verdict} ({interval})"


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of unshifted images, without those under a scanner shift."""
    return table[table["severity"] == 0] if "severity" in table else table


def receiver(experiment: Experiment) -> str:
    """Name the target in words: an unseen hospital, several mixed, or a hospital where every one trains."""
    if experiment.evaluation.mixed:
        return "mix of unseen hospitals"
    return "hospital" if experiment.unseen == "none" else "unseen hospital"


def mean_label(experiment: Experiment) -> str:
    """Return the label of mean merging in an experiment."""
    return next((entry.label for entry in experiment.fusion if entry.method == "mean"), "mean")


def cells(table: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Pivot a score: seed, site and stream as rows, methods as columns; NaN where one did not finish."""
    return table.pivot_table(index=["seed", "site", "stream"], columns="method", values=metric, sort=False)


def difference(method: pd.Series, other: pd.Series) -> Difference:
    """Compare two methods' columns of ``cells`` where both have a value.

    Streams are averaged; the interval is over seeds and over sites, where there are several.
    """
    grid = 100 * (method - other).dropna().groupby(["seed", "site"]).mean().unstack("site")
    points, low, high = np.clip(with_interval(grid.to_numpy()[:, :, None])[0], -100, 100).tolist()
    return Difference(points) if math.isnan(low) else Difference(points, low, high)


def interval_words(seeds: int, sites: int) -> str:
    """Say what the intervals of an answer are over: seeds, hospitals; or that there are none."""
    numbers = {"seed": seeds, "hospital": sites}
    several = [count(number, thing) for thing, number in numbers.items() if number > 1]
    if not several:
        return " (one seed: no interval)"
    one = [f"one {thing}" for thing, number in numbers.items() if number == 1]
    return f"; intervals over {listing(several)}" + (
        f" ({one[0]}: they say nothing of others)" if one else ""
    )


def ranking(table: pd.DataFrame, kinds: tuple[str, ...] = TRIED, metric: str = "accuracy") -> pd.Series:
    """Rank the methods of these kinds that finished everywhere by their mean score, best first."""
    values, chosen = cells(table, metric), table[table["kind"].isin(kinds)]
    complete = values[[name for name in dict.fromkeys(chosen["method"]) if name in values]].dropna(axis=1)
    return complete.mean().sort_values(ascending=False, kind="stable")


def best_alone(table: pd.DataFrame, metric: str = "accuracy") -> tuple[str, pd.Series] | None:
    """Return the hospital whose own model is best at each site (known only afterwards), and its scores."""
    winners = _winners(table, metric)
    if not winners:
        return None
    values = cells(table, metric)
    chosen = [
        values.at[cell, winners[cell[1]]] if cell[1] in winners else float("nan") for cell in values.index
    ]
    names = list(dict.fromkeys(name.removeprefix("alone:") for name in winners.values()))
    label = (
        f"the best single hospital ({names[0]})"
        if len(names) == 1
        else "the best single hospital of each site"
    )
    return label, pd.Series(chosen, index=values.index)


def _winners(table: pd.DataFrame, metric: str) -> dict[str, str]:
    """Return for each site the ``alone:`` method that is best there."""
    alone = table[table["kind"] == "alone"]
    means = alone.groupby(["site", "method"], sort=False)[metric].mean().dropna()
    return {site: str(means[site].idxmax()) for site in dict.fromkeys(means.index.get_level_values("site"))}


def answer(
    table: pd.DataFrame, mean: str = "mean", place: str = "unseen hospital", metric: str = "auto"
) -> str:
    """Say the result in a sentence or two: the best fused or adapted model against the references.

    ``mean`` is the label of mean merging, ``place`` what a site is called, ``metric`` the score that ranks
    (see ``analysis.ranking_metric``). A method that loses is said to lose. No constant classifier, and none
    that is no better than guessing (``analysis.learning``), is called best, and being better than one is not
    called a gain. Where there is nothing else, nothing was learned, and the sentence says where and why.
    """
    table = clean(table)
    metric = ranking_metric(table, metric)
    order, known = ranking(table, metric=metric), learning(table, metric=metric)
    lacking = _undefined(table)
    if order.empty:
        return lacking or "No fused or adapted model finished everywhere, so there is nothing to compare."
    tried = list(order.index)
    worth = order[known["worth"].reindex(tried).to_numpy(dtype=bool)]
    if worth.empty and known["learned"].reindex(tried).any():
        return _below_the_majority(table, known.reindex(tried))
    if worth.empty:
        return nothing_learned(table, tried, count(len(tried), "fused or adapted model"))
    best, values = str(worth.index[0]), cells(table, metric)
    against, idle = [], []
    for label, other, state in _references(table, best, mean, metric):
        if state["worth"]:
            against.append(difference(values[best], other).words(label))
        else:
            idle.append((label, state))
    behind = _adapted(table, best, values, place, metric)
    sites = list(dict.fromkeys(table["site"]))
    rule = interval_words(table["seed"].nunique(), len(sites)) if against or behind else ""
    gains = f": it {listing(against)}" if against else ""
    head = _head(table, worth, len(order), place, metric)
    if words := remark(known.loc[best]):
        head += f", with {words}"
    beside = f" {lacking}" if lacking else ""
    return f"{head}{gains}{no_gain(idle)}{behind}{rule}.{lost_places(table, tried)}{beside}"


def _undefined(table: pd.DataFrame) -> str:
    """Say at which sites the task's own score is not defined for any method; empty for none."""
    tasks = list(table["task"].dropna().unique()) if "task" in table else []
    if not tasks or (score := TASKS[tasks[0]].headline) not in table:
        return ""
    known = table.groupby("site", sort=False)[score].count()
    sites = list(known.index[known == 0])
    if not sites:
        return ""
    words = scale_of(score).words
    return f"{words[:1].upper()}{words[1:]} is not defined at {few(sites)}, where all images are of one kind."


def in_plain_words(table: pd.DataFrame, mean: str, place: str, metric: str = "auto") -> str:
    """Say the result for somebody who knows none of the methods: how many of 100 images are right.

    Empty where no fused or adapted model is worth naming (see ``answer``, whose arguments these are), and
    for scores and tasks that do not count right images.
    """
    table = clean(table)
    metric = ranking_metric(table, metric)
    if metric not in ("accuracy", "balanced_accuracy") or ("task" in table and table["task"].notna().any()):
        return ""
    order, known = ranking(table, metric=metric), learning(table, metric=metric)
    worth = order[known["worth"].reindex(order.index).to_numpy(dtype=bool)]
    if worth.empty:
        return ""
    best, sites = str(worth.index[0]), list(dict.fromkeys(table["site"]))
    where = sites[0] if len(sites) == 1 else f"{len(sites)} {place}s"
    right = "recognises" if metric == "accuracy" else "recognises of each class, on average,"
    said = f"At {where} the best model made without sharing images {right} {_in_100(worth.iloc[0])} images"
    beside = [
        f"{label.replace('mean merging', 'averaging the models')} {_in_100(other.mean())}"
        for label, other, state in _references(table, best, mean, metric)
        if state["worth"]
    ]
    seeds = table["seed"].nunique()
    sure = f"means over {seeds} seeds" if seeds > 1 else "one seed, so small differences may be chance"
    return f"{said}{f'; {listing(beside)}' if beside else ''} ({sure})."


def _in_100(score: float) -> str:
    return f"{100 * score:.0f} of 100"


def _references(
    table: pd.DataFrame, best: str, mean: str, metric: str
) -> Iterator[tuple[str, pd.Series, Any]]:
    """Yield each reference of the best: its name, its scores, and its row of ``analysis.learning``."""
    values, known = cells(table, metric), learning(table, metric=metric)
    if mean in values and mean != best:
        yield "mean merging", values[mean], known.loc[mean]
    if single := best_alone(table, metric):
        chosen = table[table["method"] == table["site"].map(_winners(table, metric))].assign(method="alone")
        yield *single, learning(chosen, metric=metric).loc["alone"]
    for method in ranking(table, ("pooled",), metric).index:
        yield "pooled training on all images", values[method], known.loc[method]


def _head(table: pd.DataFrame, worth: pd.Series, tried: int, place: str, metric: str) -> str:
    """Say which model is best, where, with what score, and of how many models."""
    best, score = worth.index[0], score_text(metric, worth.iloc[0])
    sites = list(dict.fromkeys(table["site"]))
    where = f"At {sites[0] if len(sites) == 1 else f'{len(sites)} {place}s'}, {best}"
    streams = f"on average over {count(table['stream'].nunique(), 'stream')}"
    models = f"{len(worth)} fused and adapted models{' above chance' if len(worth) < tried else ''}"
    alone = f"{where} alone is above chance of {tried} fused and adapted models"
    if metric != "accuracy":
        of = scale_of(metric).words
        if len(worth) > 1:
            return f"{where} has the best {of} of {models}, {score}, {streams}"
        return f"{alone}: {of} {score} {streams}" if tried > 1 else f"{where} has {score} {of} {streams}"
    if len(worth) > 1:
        return f"{where} is the most accurate of {models} with {score} {streams}"
    right = f"right on {score} of the images {streams}"
    return f"{alone}: it is {right}" if tried > 1 else f"{where} is {right}"


def _below_the_majority(table: pd.DataFrame, known: pd.DataFrame) -> str:
    """Say the result where some models are above chance, but none as accurate as the majority class."""
    learned = known[known["learned"]]
    row, sites = learned.sort_values("accuracy").iloc[-1], list(dict.fromkeys(table["site"]))
    return (
        f"At {few(sites)} no fused or adapted model is right more often than one "
        f"class for every image would be ({percent(row['majority'])}): the most accurate of those above "
        f"chance, {row.name}, is right on {percent(row['accuracy'])}, with balanced accuracy "
        f"{percent(row['balanced'])} where chance is {percent(row['chance'])}."
    )


def _adapted(table: pd.DataFrame, best: str, values: pd.DataFrame, place: str, metric: str) -> str:
    """Say how the best test-time method compares where fusion won; only one that is worth naming."""
    known = learning(table, metric=metric)
    adapted = [
        method for method in ranking(table, ("test-time",), metric).index if known.loc[method, "worth"]
    ]
    if not adapted or best in adapted:
        return ""
    method = str(adapted[0])
    return f"; adapting at the {place}, {method} {difference(values[method], values[best]).words(best)}"


def asked(experiment: Experiment, cohort: Cohort, sites: list[str]) -> str:
    """Say the experiment's question in one sentence: cohort, model, rounds, fusion, streams, seeds."""
    each = len(sites) == len(cohort.sites)
    members = [site.name for site in cohort.sites if each or site.name not in sites]
    rounds = count(experiment.training.rounds, "federated round")
    fusion = listing([entry.label for entry in experiment.fusion])
    adapting = [entry.label for entry in experiment.testtime]
    streams = listing([spec.name for spec in experiment.evaluation.streams])
    if experiment.unseen == "none":
        target = "each hospital, on its own test images,"
    elif each:
        target = "each hospital in turn, left out of training,"
    else:
        mixed = " and mixed in every stream" if experiment.evaluation.mixed else ""
        target = f"{listing(sites)}, unseen in training{mixed},"
    verb = "receive" if len(sites) > 1 and not each else "receives"
    also = f", with {listing(adapting)} adapting there" if adapting else ""
    return (
        f"{count(len(members), 'hospital')} of “{cohort.title}” train {experiment.model.name} in {rounds} "
        f"and fine-tune it, a server fuses their models ({fusion}), and {target} {verb} the result{also}: "
        f"how accurate is it on the {'streams' if len(experiment.evaluation.streams) > 1 else 'stream'} "
        f"{streams}, with {'seeds' if len(experiment.seeds) > 1 else 'seed'} {listing(experiment.seeds)}?"
    )


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")
