"""The leaderboards of a study's report: one for each stratum, and one over all strata together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedmerge.analysis import leaderboard, ranking_metric, select
from fedmerge.analysis.cube import finished, severities
from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.formatting import count, listing
from fedmerge.experiment.kinds import REFERENCE, TRIED
from fedmerge.experiment.target_supervised import ORACLE
from fedmerge.reports.figures.panels import plain


class StudyLike(Protocol):
    """The part of a study that the report needs."""

    @property
    def config(self) -> Any: ...
    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def reliability(self) -> pd.DataFrame | None: ...
    @property
    def provenance(self) -> dict[str, Any]: ...
    @property
    def folder(self) -> Path: ...


@dataclass(frozen=True)
class Leaderboards:
    """The leaderboards of a study, with the rows behind them.

    table: the rows compared, levels and strata as text. within: the columns that make the strata. folded: the
    table with the strata as cells. leaderboards: one for each stratum. overall: the one over all strata
    together. kinds: by level, where methods are compared. guesses: the rows of the majority class. reference:
    None where none is named, or it has no rows. chosen: the levels of swept axes that validation chose, by
    stratum. skipped: the methods without a validation score to choose by, which are not compared.
    """

    compare: str
    reference: str | None
    metric: str
    within: tuple[str, ...]
    table: pd.DataFrame
    folded: pd.DataFrame
    leaderboards: pd.DataFrame
    overall: pd.DataFrame
    kinds: dict[str, str]
    guesses: pd.DataFrame
    chosen: pd.DataFrame
    skipped: tuple[str, ...]

    @property
    def sign(self) -> int:
        """+1 where a large score is good, -1 where a small one is."""
        return scale_of(self.metric).sign

    @property
    def strata(self) -> list[tuple[str, ...]]:
        """The values of ``within`` of each stratum, in order of appearance; none without strata."""
        if not self.within:
            return []
        return list(dict.fromkeys(self.leaderboards[list(self.within)].itertuples(index=False, name=None)))

    @property
    def over_strata(self) -> str:
        """For example ``12 settings of cohort and model``; empty without strata."""
        names = listing([plain(name) for name in self.within])
        return f"{count(len(self.strata), 'setting')} of {names}" if self.within else ""

    @property
    def contrast(self) -> str | None:
        """The one level that is compared with the reference, where there are only two."""
        others = [str(level) for level in self.overall["level"] if level != self.reference]
        return others[0] if self.reference is not None and len(others) == 1 else None

    def board(self, stratum: tuple[str, ...]) -> pd.DataFrame:
        """Return the leaderboard of one stratum."""
        return self.leaderboards[_is(self.leaderboards, self.within, stratum)]

    def tried(self, board: pd.DataFrame) -> pd.DataFrame:
        """Return the levels under test: all; of methods, those fused or adapted and the reference.

        Where nothing was fused or adapted, all methods but the oracle and the majority class.
        """
        tried = board["level"].map(self.kinds).isin(TRIED)
        if tried.any():
            return board[tried | (board["level"] == self.reference)]
        return board[~board["level"].map(self.kinds).isin([ORACLE, REFERENCE])]

    def ranked(self, board: pd.DataFrame) -> pd.DataFrame:
        """Return those of ``whole`` that may be called best (``worth`` in ``analysis.learning``)."""
        able = self.whole(board)
        return able[able["worth"]]

    def whole(self, board: pd.DataFrame) -> pd.DataFrame:
        """Return the tried levels that finished everywhere, best first."""
        able = self.tried(board)
        able = able[able["complete"] & able["mean"].notna()]
        return able.loc[(self.sign * able["mean"]).sort_values(ascending=False, kind="stable").index]


def leaderboards(study: StudyLike) -> Leaderboards | None:
    """Compute the leaderboards; None where nothing finished, so there is nothing to compare.

    Of a swept axis only the level that validation chose takes part.
    """
    config = study.config
    compare, chosen_metric = str(config.compare), str(getattr(config, "metric", "accuracy"))
    axes = list(getattr(config, "axes", ()))
    table = _as_text(study.table, compare, axes)
    table, chosen, skipped = _swept(table, [*getattr(config, "sweep", ())], axes)
    done = finished(table)
    done = done[severities(done) == 0]
    if done.empty:
        return None
    metric = ranking_metric(done, chosen_metric)
    if not done[metric].notna().any():
        return None
    within = _within(config, done, compare, axes)
    reference = getattr(config, "reference", None)
    reference = str(reference) if reference is not None and str(reference) in set(done[compare]) else None
    folded = fold(table, within)
    leaderboards = leaderboard(table, compare, reference, metric, within)
    return Leaderboards(
        compare=compare,
        reference=reference,
        metric=metric,
        within=within,
        table=table,
        folded=folded,
        leaderboards=leaderboards,
        overall=leaderboard(folded, compare, reference, metric) if within else leaderboards,
        kinds=_kinds(table) if compare == "method" else {},
        guesses=_guesses(study.table, within),
        chosen=chosen,
        skipped=skipped,
    )


def _swept(
    table: pd.DataFrame, sweep: Sequence[str], axes: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Return the rows of the chosen levels of swept axes, the choices, and the methods without a score."""
    if not sweep:
        return table, pd.DataFrame(), ()
    within = [name for name in (*axes, "cohort", "model", "method") if name not in sweep and name in table]
    within = list(dict.fromkeys(within))
    usable = finished(table)
    scored = usable.loc[usable["validation"].notna() & (severities(usable) == 0), within].drop_duplicates()
    if scored.empty:
        return table.iloc[:0], pd.DataFrame(), tuple(usable["method"].unique())
    able = pd.MultiIndex.from_frame(table[within]).isin(pd.MultiIndex.from_frame(scored))
    skipped = sorted(set(usable["method"]) - set(table.loc[able, "method"]))
    chosen, kept = select(table[able], sweep, within=within)
    return kept, chosen, tuple(skipped)


def fold(table: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Turn strata into cells, so that levels are paired within each stratum and averaged over all.

    Strata become part of the stream; hospitals of different cohorts are different hospitals.
    """
    folded = table.copy()
    if "cohort" in within:
        folded["site"] = _joined(folded, ["cohort", "site"])
        folded = folded.drop(columns="cohort")
    names = [name for name in within if name != "cohort"]
    if names:
        folded["stream"] = _joined(folded, ["stream", *names])
    return folded


def _joined(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Join several columns into one text; the text of each combination is made once."""
    combined = table.groupby(list(names), sort=False, dropna=False)
    keys = combined[names[0]].first().index
    texts = [", ".join(map(str, key)) for key in keys]
    return combined.ngroup().map(dict(enumerate(texts)))


def _as_text(table: pd.DataFrame, compare: str, axes: Sequence[str]) -> pd.DataFrame:
    """Turn levels into text. Where another axis is compared, hospitals alone count as one method.

    An oracle and the majority class stand beside methods only. A failed row of hospitals alone names no
    hospital; where methods are compared it stands for none of them.
    """
    table = table.copy()
    if compare == "method":
        table = table[table["method"] != "alone"]
    else:
        table = table[~table["kind"].isin([ORACLE, REFERENCE])].copy()
        table["method"] = table["method"].where(table["kind"] != "alone", "alone")
    for name in {compare, *axes, "cohort", "model", "method"} & set(map(str, table.columns)):
        known = table[name].notna()
        texts = {value: str(value) for value in table.loc[known, name].unique()}
        table[name] = table[name].map(texts).astype(object)
    return table


def _within(config: Any, done: pd.DataFrame, compare: str, axes: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that make strata: all settings with several values, except swept axes."""
    swept = getattr(config, "sweep", ())
    names = [name for name in (*axes, "cohort", "model", "method") if name not in (compare, *swept)]
    return tuple(dict.fromkeys(name for name in names if name in done and done[name].nunique() > 1))


def _guesses(table: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Return the clean rows of the majority class, folded like the others."""
    rows = finished(table)
    rows = rows[(severities(rows) == 0) & (rows["kind"] == REFERENCE)]
    return fold(rows, within)


def _kinds(table: pd.DataFrame) -> dict[str, str]:
    pairs = table[["method", "kind"]].dropna().drop_duplicates("method")
    return dict(zip(pairs["method"].astype(str), pairs["kind"].astype(str), strict=True))


def _is(frame: pd.DataFrame, within: Sequence[str], stratum: tuple[str, ...]) -> pd.Series:
    keep = pd.Series(True, index=frame.index)
    for name, value in zip(within, stratum, strict=True):
        keep &= frame[name] == value
    return keep
