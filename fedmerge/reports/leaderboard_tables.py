"""The tables of a study's report: leaderboards, robustness, and what failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from fedmerge.analysis.metrics import METRICS, scale_of
from fedmerge.experiment.formatting import percent
from fedmerge.experiment.kinds import KINDS
from fedmerge.experiment.summary.unlearned import remark
from fedmerge.reports.figures.panels import metric_words, plain, signed
from fedmerge.reports.leaderboards import Leaderboards
from fedmerge.reports.page import records
from fedmerge.reports.tables import Cell, Group, Line, Table, heading

FIRST, LAST = ("accuracy", "validation"), ("forward_passes", "backward_passes")
"""Columns of means before and after those of the other metrics; shown where any level has a value."""
WON = "won / tied / lost"
Row = dict[str, Any]
Column = tuple[str, str, Callable[[Row], Cell]]


def board_table(leaderboards: Leaderboards, board: pd.DataFrame, label: str) -> Table:
    """Return a leaderboard's table: the metric, the comparison with the reference, and means of the rest."""
    s = leaderboards
    columns = [*_compared(s, board), *_means(s, board)]
    best = _best(s, board, [column for column, _, _ in columns])
    headings: dict[str, list[str]] = {}
    for column, name, _ in columns:
        headings.setdefault(_common(s, column), []).append(name)
    groups = []
    for kind in KINDS if s.kinds else [""]:
        part = board[board["level"].map(s.kinds) == kind] if s.kinds else board
        lines = [
            Line(
                str(row["level"]),
                _remark(s, row),
                [_marked(make(row), best.get(column) == row["level"]) for column, _, make in columns],
            )
            for row in records(part)
        ]
        if lines:
            groups.append(Group(heading(kind, "hospital") if kind else "", lines))
    falling = [name for column, name, _ in columns if _falls(column)]
    falling += [name for column, name, _ in columns if column == "mean" and s.sign < 0]
    return Table(label, plain(s.compare).capitalize(), headings, groups, tuple(falling))


def robustness_table(leaderboards: Leaderboards, frame: pd.DataFrame) -> Table:
    """Return a table of errors on clean and shifted images, in per cent, and against the reference."""
    s = leaderboards
    relative = s.reference is not None and frame["relative_error"].notna().any()
    names = ["on clean images", "under scanner shift", "increase, points"]
    lines, remarks = [], {str(row["level"]): remark(row) for row in records(s.overall)}
    for row in records(frame.sort_values("shifted_error", kind="stable")):
        cells = [_share(row["clean_error"]), _share(row["shifted_error"])]
        cells.append(
            Cell(signed(row["increase"]), value=row["increase"], detail=_range(row, "increase", signed))
        )
        if relative:
            detail = _range(row, "relative_error", percent) if row["level"] != s.reference else ""
            cells.append(Cell(percent(row["relative_error"]), value=row["relative_error"], detail=detail))
        lines.append(Line(str(row["level"]), remarks.get(str(row["level"]), ""), cells))
    names += [f"relative to {s.reference}"] if relative else []
    label = "Errors under scanner shift"
    common = "Balanced error (1 − balanced accuracy), %"
    return Table(label, plain(s.compare).capitalize(), {common: names}, [Group("", lines)], tuple(names))


def failed_groups(failed: pd.DataFrame) -> list[dict[str, object]]:
    """Group failures by reason, the most frequent first, with their number and the first three places."""
    if failed.empty:
        return []
    names = [n for n in ("cohort", "model", "method", "site", "seed") if n in failed]
    groups = []
    for reason, rows in failed.groupby("reason", sort=False, dropna=False):
        where = [
            ", ".join(f"{n} {row[n]}" if n == "seed" else str(row[n]) for n in names if _there(row[n]))
            for row in records(rows[names].drop_duplicates())
        ]
        jobs = rows["job"].nunique() if "job" in rows else len(rows)
        groups.append(
            {"reason": str(reason), "jobs": jobs, "where": where[:3], "more": max(len(where) - 3, 0)}
        )
    return sorted(groups, key=lambda group: -int(str(group["jobs"])))


def contrast_table(leaderboards: Leaderboards) -> Table | None:
    """Return a table of the one level and the reference, with their difference, a line for each stratum.

    None where there is no such level, no reference, or no strata.
    """
    s, level = leaderboards, leaderboards.contrast
    if level is None or s.reference is None or not s.within:
        return None
    show = scale_of(s.metric).text
    lines = []
    for key in s.strata:
        rows = {str(row["level"]): row for row in records(s.board(key))}
        if level in rows and s.reference in rows:
            row, other = rows[level], rows[s.reference]
            means = [_bounded(row, "mean", "", show), _bounded(other, "mean", "", show)]
            notes = [f"{name}: {words}" for name in (level, s.reference) if (words := remark(rows[name]))]
            lines.append(
                Line(", ".join(key), "; ".join(notes), [*means, _difference(s, row), _record(s, row)])
            )
    headings = {_metric(s): [level, s.reference], f"Against {s.reference}": ["difference, points", WON]}
    return Table(f"{level} against {s.reference}, by setting", "Setting", headings, [Group("", lines)])


def _compared(s: Leaderboards, board: pd.DataFrame) -> list[Column]:
    show = scale_of(s.metric).text
    columns: list[Column] = [("mean", "mean", lambda row: _bounded(row, "mean", "", show))]
    if board["worst"].notna().any() and board["sites"].max() > 1:
        columns.append(("worst", "worst hospital", lambda row: _bounded(row, "worst", "worst", show)))
    if s.reference is not None:
        columns += [
            ("difference", "difference, points", lambda row: _difference(s, row)),
            ("wins", WON, lambda row: _record(s, row)),
        ]
    if len(board) > 2:
        columns.append(("rank", "average rank", lambda row: Cell(_rank(row["rank"]), value=row["rank"])))
    return columns


def _means(s: Leaderboards, board: pd.DataFrame) -> list[Column]:
    columns: list[Column] = []
    for column in dict.fromkeys((*FIRST, *METRICS.names(), *LAST)):
        if column == s.metric or column not in board or not board[column].notna().any():
            continue
        if column == "backward_passes" and not board[column].any():
            continue
        columns.append((column, scale_of(column).heading, lambda row, column=column: _mean(row, column)))  # type: ignore[misc]
    return columns


def _common(s: Leaderboards, column: str) -> str:
    """Return the heading that a column shares with its neighbours."""
    if column in ("difference", "wins"):
        return f"Against {s.reference}"
    return _metric(s) if column in ("mean", "worst") else "Means"


def _metric(s: Leaderboards) -> str:
    words = metric_words(s.metric)
    return words[:1].upper() + words[1:] + (", %" if scale_of(s.metric).format == "percent" else "")


def _best(s: Leaderboards, board: pd.DataFrame, columns: list[str]) -> dict[str, str]:
    """Return the best level of each column among those worth it; none where two look equal."""
    able, best = s.ranked(board), {}
    for column in columns:
        if column in ("forward_passes", "backward_passes", "wins", "difference"):
            continue
        values = able.set_index("level")[column].dropna().round(3)
        if len(values) > 1:
            low = _falls(column) or (column in ("mean", "worst") and s.sign < 0)
            top = values[values == (values.min() if low else values.max())]
            if len(top) == 1:
                best[column] = str(top.index[0])
    return best


def _remark(s: Leaderboards, row: Row) -> str:
    """Return the remark on a line: that it is the reference, lacks cells, is constant or at chance."""
    if math.isnan(row["mean"]):
        return "never finished"
    parts = ["the reference"] if row["level"] == s.reference else []
    parts += [] if row["complete"] else ["not everywhere"]
    return "; ".join([*parts, *([words] if (words := remark(row)) else [])])


def _bounded(row: Row, column: str, bounds: str, show: Callable[[float], str]) -> Cell:
    return Cell(show(row[column]), value=row[column], detail=_range(row, bounds, show))


def _difference(s: Leaderboards, row: Row) -> Cell:
    if row["level"] == s.reference or math.isnan(row["difference"]):
        return Cell("–")
    detail = _range(row, "difference", signed)
    return Cell(signed(row["difference"]), value=row["difference"], detail=detail)


def _record(s: Leaderboards, row: Row) -> Cell:
    if row["level"] == s.reference or math.isnan(row["wins"]):
        return Cell("–")
    return Cell(
        f"{row['wins']:.0f} / {row['ties']:.0f} / {row['losses']:.0f}", value=row["wins"] - row["losses"]
    )


def _mean(row: Row, column: str) -> Cell:
    value = float(row[column])
    return Cell("–") if math.isnan(value) else Cell(scale_of(column).text(value), value=value)


def _falls(column: str) -> bool:
    """Whether less is better in a column."""
    return column == "rank" or scale_of(column).lower


def _marked(cell: Cell, best: bool) -> Cell:
    return Cell(cell.text, best, cell.value, cell.detail)


def _range(row: Row, name: str, show: Callable[[float], str]) -> str:
    low, high = (row[f"{name}_{end}" if name else end] for end in ("low", "high"))
    return "" if math.isnan(low) or math.isnan(high) else f"{show(low)} to {show(high)}"


def _share(value: float) -> Cell:
    return Cell(percent_number(value), value=value)


def percent_number(share: float) -> str:
    """Return a share of 1 in per cent, without the sign; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _rank(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _there(value: object) -> bool:
    return value is not None and value == value and value != ""
