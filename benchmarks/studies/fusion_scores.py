"""The scores of a fusion study, ready to be compared: methods beside their parents, paired by run.

Parents are three levels more: their mean, their best and their worst in each run. Best and worst are picked
on the very images they are scored on, a choice that nobody could make: they are oracles.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.pages import as_saved
from benchmarks.studies.one_class import ONE, judged
from fedmerge.analysis import difference, leaderboard
from fedmerge.errors import FedMergeError
from fedmerge.reports.leaderboards import fold
from fedmerge.workflows.bench.study import Study, open_study

PARENTS, BEST, WORST, CHANCE = "parents (mean)", "parents (best)", "parents (worst)", "chance"
ORACLES = (BEST, WORST)
ENSEMBLE = "ensemble-logits"
SCORES = ["accuracy", "balanced_accuracy", "auroc"]
ALIASES = ("data",)
"""Axes whose levels are the cohorts: a cohort is folded as a hospital, so these are not folded again."""

Row = dict[str, Any]


class Seen(NamedTuple):
    """A study and its finished rows: axes as text, parents as levels of ``method``, single ones beside."""

    study: Study
    rows: pd.DataFrame
    single: pd.DataFrame

    @property
    def axes(self) -> list[str]:
        return list(self.study.config.axes)

    def levels(self, axis: str) -> list[str]:
        """The levels of an axis of which something finished, in the order of the configuration."""
        there = set(self.rows[axis])
        return [level for level in self.study.config.axes[axis] if level in there]

    def rows_of(self, *methods: str) -> pd.DataFrame:
        """The rows of these methods; all but chance for none."""
        there = self.rows["method"]
        return self.rows[there.isin(methods) if methods else there != CHANCE]

    def of(self, **where: str) -> Seen:
        """The rows whose axes have these levels."""
        return self._replace(rows=_where(self.rows, where), single=_where(self.single, where))


def _where(rows: pd.DataFrame, where: dict[str, str]) -> pd.DataFrame:
    for axis, level in where.items():
        rows = rows[rows[axis] == level]
    return rows


def look_at(folder: Path) -> Seen:
    """Read a study's folder. Raises FedMergeError where no setting is finished."""
    return seen_of(open_study(folder))


def seen_of(study: Study) -> Seen:
    """A study's scores; settings that are not finished are left out.

    Raises FedMergeError where no setting is finished.
    """
    study = judged(as_saved(study, SCORES))
    rows = study.done.astype(dict.fromkeys(study.config.axes, str))
    for place, *_ in missing(study):
        rows = rows.drop(index=_where(rows, place).index)
    if rows.empty:
        raise FedMergeError(f"no setting of the study in '{study.folder}' is finished: finish it first.")
    single = rows[rows["kind"] == "alone"]
    methods = rows[rows["kind"] != "alone"]
    place = ["cohort", "model", *study.config.axes, "seed", "site", "stream"]
    place = list(dict.fromkeys(place))
    return Seen(study, pd.concat([methods, *_derived(single, place)], ignore_index=True), single)


def _derived(single: pd.DataFrame, place: Sequence[str]) -> list[pd.DataFrame]:
    """The parents' mean, their best and worst by accuracy in each run; and what guessing would give.

    Chance is that of balanced accuracy, 1 / classes; it has no other score. Their mean counts as a constant
    classifier in a run where one of them is.
    """
    if single.empty:
        return []
    by_run = single.groupby(list(place), sort=False)
    mean = by_run[SCORES].mean().assign(**{ONE: by_run[ONE].max()}).reset_index().assign(method=PARENTS)
    best = single.loc[by_run["accuracy"].idxmax(), [*place, *SCORES, ONE]].assign(method=BEST)
    worst = single.loc[by_run["accuracy"].idxmin(), [*place, *SCORES, ONE]].assign(method=WORST)
    classes = by_run["auroc_classes"].max().reset_index()
    chance = mean[list(place)].assign(
        method=CHANCE, balanced_accuracy=1 / classes["auroc_classes"].astype(float), accuracy=math.nan
    )
    chance[ONE] = False
    return [frame.assign(kind="parents", status="done", severity=0) for frame in (mean, best, worst, chance)]


def folded(seen: Seen, compare: str = "method") -> pd.DataFrame:
    """Return the rows with every axis but the compared one folded into cells; data sets are the hospitals."""
    within = [axis for axis in seen.axes if axis not in (*ALIASES, compare)]
    return fold(seen.rows, ["cohort", *within])


def board(
    seen: Seen, reference: str | None, compare: str = "method", metric: str = "accuracy"
) -> pd.DataFrame:
    """The leaderboard over all cells, by level; only differences to a reference that is there."""
    table = folded(seen, compare)
    known = reference if reference in set(table[compare]) else None
    return leaderboard(table, compare, known, metric).set_index("level")


def contrast(seen: Seen, first: str, second: str, metric: str = "accuracy") -> Row | None:
    """Return ``first`` minus ``second``, paired by setting and seed where both are there; else None."""
    both = seen._replace(rows=seen.rows[seen.rows["method"].isin([first, second])].dropna(subset=[metric]))
    if set(both.rows["method"]) != {first, second}:
        return None
    row: Row = difference(folded(both), first, second, metric=metric)
    return None if math.isnan(row["difference"]) else row


def settled(seen: Seen, first: str, second: str) -> tuple[int, int, int]:
    """Count the settings where ``first`` is above ``second`` beyond its interval, where below, and all."""
    rows = seen.rows[seen.rows["method"].isin([first, second])]
    if set(rows["method"]) != {first, second}:
        return 0, 0, 0
    settings = (part for _, part in rows.groupby(seen.axes, sort=False) if part["method"].nunique() == 2)
    paired = [difference(part, first, second) for part in settings]
    paired = [row for row in paired if not math.isnan(row["difference"])]
    above = sum(row["difference_low"] > 0 for row in paired)
    return above, sum(row["difference_high"] < 0 for row in paired), len(paired)


def change(seen: Seen, first: str, second: str | None, axis: str, start: str, end: str) -> Row | None:
    """How ``first``, or its lead over ``second``, changes from one level of an axis to another, paired."""
    table = folded(seen, axis)
    keys = ["seed", "site", "stream", axis]
    values = table[table["method"] == first].set_index(keys)["accuracy"]
    if second is not None:
        values = values - table[table["method"] == second].set_index(keys)["accuracy"]
    rows = values.dropna().reset_index().query(f"{axis} in [@start, @end]")
    if set(rows[axis]) != {start, end}:
        return None
    row: Row = leaderboard(rows, axis, start).set_index("level").loc[end].to_dict()
    return None if math.isnan(row["difference"]) else row


def verdict(row: Row) -> int:
    """+1 where the whole interval of a difference is above zero, -1 where it is below, else 0."""
    return int(row["difference_low"] > 0) - int(row["difference_high"] < 0)


def missing(study: Study) -> list[tuple[dict[str, str], int, int]]:
    """The settings without all rows: their levels, how many fusions there are, and how many were planned.

    Planned are the configured seeds times the methods seen with the same start.
    """
    config, axes = study.config, list(study.config.axes)
    there = study.table[study.table["kind"] != "alone"].astype(dict.fromkeys(axes, str))
    seeds = len(config.base["seeds"]) if isinstance(config.base, dict) else there["seed"].nunique()
    found = []
    for levels in itertools.product(*config.axes.values()):
        place = dict(zip(axes, levels, strict=True))
        if any(all(place[axis] == level for axis, level in out.items()) for out in config.without):
            continue
        alike = _where(there, {"start": place["start"]} if "start" in place else {})
        planned = seeds * (alike if len(alike) else there)["method"].nunique()
        number = len(_where(there, place)[["seed", "method"]].drop_duplicates())
        if number < planned:
            found.append((place, number, planned))
    return found


def given(study: Study) -> pd.DataFrame:
    """Fusion images by run: the axes, seed, how many were asked for, and how many the hospitals held."""
    axes, rows = list(study.config.axes), []
    for place in study.done.drop_duplicates("job")[[*axes, "seed", "job"]].to_dict("records"):
        path = study.folder / "jobs" / str(place.pop("job")) / "job.json"
        job = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        shares = [each for each in job.get("decisions", ()) if "images_asked" in each]
        if shares:
            asked, held = (sum(each[name] for each in shares) for name in ("images_asked", "images"))
            rows.append(place | {"asked": asked, "held": held})
    return pd.DataFrame(rows, columns=[*axes, "seed", "asked", "held"]).drop_duplicates(ignore_index=True)
