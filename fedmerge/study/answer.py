"""What was asked and what came out, each in one sentence read off the configuration and the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedmerge.analysis.cube import with_interval
from fedmerge.data import Cohort
from fedmerge.study.config import Experiment
from fedmerge.study.words import count, listing, percent

TRIED = ("fusion", "test-time")


@dataclass(frozen=True)
class Difference:
    """Mean accuracy of one method minus another's, in percentage points, paired by seed, site and stream.

    low, high: the 95 % interval of ``crossed_interval``; None for one seed and one site.
    """

    points: float
    low: float | None = None
    high: float | None = None

    def words(self, other: str) -> str:
        """For example: ``loses 3.2 points to mean merging``, and the interval if there is one."""
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
    """The rows of images as they are, without those seen under a scanner shift."""
    return table[table["severity"] == 0] if "severity" in table else table


def receiver(experiment: Experiment) -> str:
    """Where models are deployed: an unseen hospital, or several mixed, unless every hospital trains."""
    if experiment.deployment.mixed:
        return "mix of unseen hospitals"
    return "hospital" if experiment.unseen == "none" else "unseen hospital"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by seed, site and stream (rows) and method (columns); NaN where a method did not finish."""
    return table.pivot_table(
        index=["seed", "site", "stream"], columns="method", values="accuracy", sort=False
    )


def difference(method: pd.Series, other: pd.Series) -> Difference:
    """Compare two columns of ``cells`` where both have a value.

    Streams are averaged; the interval is over seeds and sites, each where there are several.
    """
    grid = 100 * (method - other).dropna().groupby(["seed", "site"]).mean().unstack("site")
    points, low, high = np.clip(with_interval(grid.to_numpy()[:, :, None])[0], -100, 100).tolist()
    return Difference(points) if math.isnan(low) else Difference(points, low, high)


def interval_words(seeds: int, sites: int) -> str:
    """Behind what was said with intervals: what they are over, and what there is only one of."""
    numbers = {"seed": seeds, "hospital": sites}
    several = [count(number, thing) for thing, number in numbers.items() if number > 1]
    if not several:
        return " (one seed: no interval)"
    one = [f"one {thing}" for thing, number in numbers.items() if number == 1]
    return f"; intervals over {listing(several)}" + (
        f" ({one[0]}: they say nothing of others)" if one else ""
    )


def ranking(table: pd.DataFrame, kinds: tuple[str, ...] = TRIED) -> pd.Series:
    """Mean accuracy of the methods of these kinds that finished everywhere, best first."""
    chosen = table[table["kind"].isin(kinds)]
    if chosen.empty:
        return pd.Series(dtype=float)
    complete = cells(table)[list(dict.fromkeys(chosen["method"]))].dropna(axis=1)
    return complete.mean().sort_values(ascending=False, kind="stable")


def best_alone(table: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """The hospital whose own model is best at each unseen site (known only afterwards), and its accuracy."""
    alone = table[table["kind"] == "alone"]
    if alone.empty:
        return None
    means = alone.groupby(["site", "method"], sort=False)["accuracy"].mean()
    winners = {site: str(means[site].idxmax()) for site in dict.fromkeys(alone["site"])}
    values = cells(table)
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


def answer(table: pd.DataFrame, mean: str = "mean", place: str = "unseen hospital") -> str:
    """The outcome in one sentence: the most accurate fused or adapted model against the references.

    ``mean`` is the label of mean merging, ``place`` what a site is. A method that loses is said to lose.
    """
    table = clean(table)
    order = ranking(table)
    if order.empty:
        return "No fused or adapted model finished everywhere, so there is nothing to compare."
    best, values = str(order.index[0]), cells(table)
    sites = list(dict.fromkeys(table["site"]))
    where = sites[0] if len(sites) == 1 else f"{len(sites)} {place}s"
    many = f"the most accurate of {len(order)} fused and adapted models" if len(order) > 1 else "right"
    rate = (
        f"with {percent(order.iloc[0])}" if len(order) > 1 else f"on {percent(order.iloc[0])} of the images"
    )
    head = f"At {where}, {best} is {many} {rate} on average over {count(table['stream'].nunique(), 'stream')}"
    against = []
    if mean in values and mean != best:
        against.append(difference(values[best], values[mean]).words("mean merging"))
    if single := best_alone(table):
        against.append(difference(values[best], single[1]).words(single[0]))
    for method in ranking(table, ("pooled",)).index:
        against.append(difference(values[best], values[method]).words("pooled training on all images"))
    behind = _adapted(table, best, values, place)
    rule = interval_words(table["seed"].nunique(), len(sites)) if against or behind else ""
    return head + (f": it {listing(against)}" if against else "") + behind + f"{rule}."


def _adapted(table: pd.DataFrame, best: str, values: pd.DataFrame, place: str) -> str:
    """Where fusion won, how far behind the best test-time method is."""
    adapted = ranking(table, ("test-time",))
    if adapted.empty or best in adapted:
        return ""
    method = str(adapted.index[0])
    return f"; adapting at the {place}, {method} {difference(values[method], values[best]).words(best)}"


def asked(experiment: Experiment, cohort: Cohort, sites: list[str]) -> str:
    """What was asked, in one sentence: cohort, model, rounds, fusion, streams, seeds."""
    each = len(sites) == len(cohort.sites)
    members = [site.name for site in cohort.sites if each or site.name not in sites]
    rounds = count(experiment.training.rounds, "federated round")
    fusion = listing([entry.label for entry in experiment.fusion])
    adapting = [entry.label for entry in experiment.testtime]
    streams = listing([spec.name for spec in experiment.deployment.streams])
    if experiment.unseen == "none":
        target = "each hospital, on its own test images,"
    elif each:
        target = "each hospital in turn, left out of training,"
    else:
        mixed = " and mixed in every stream" if experiment.deployment.mixed else ""
        target = f"{listing(sites)}, unseen in training{mixed},"
    verb = "receive" if len(sites) > 1 and not each else "receives"
    also = f", with {listing(adapting)} adapting there" if adapting else ""
    return (
        f"{count(len(members), 'hospital')} of “{cohort.title}” train {experiment.model.name} in {rounds} "
        f"and fine-tune it, a server fuses their models ({fusion}), and {target} {verb} the result{also}: "
        f"how accurate is it on the {'streams' if len(experiment.deployment.streams) > 1 else 'stream'} "
        f"{streams}, with {'seeds' if len(experiment.seeds) > 1 else 'seed'} {listing(experiment.seeds)}?"
    )


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")
