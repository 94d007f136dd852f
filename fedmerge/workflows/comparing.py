"""Two runs, or two studies, side by side: paired differences, method by method, and what was configured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedmerge.analysis import difference, interval_rule, ranking_metric
from fedmerge.analysis.cube import CELL, finished, severities
from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import differences, is_there, load_yaml

FOLDER = "folder"
"""The column that says which of the two a row is from."""


@dataclass(frozen=True)
class MethodPair:
    """A method in both: its means where both have a value, and second minus first, paired.

    low, high: the 95 % interval of the difference; NaN where nothing varies. wins, losses, ties: how many
    pairs of seed, site and stream are better, worse and equal in the second.
    """

    method: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Comparison:
    """Two folders compared. only: methods that one of them alone has. settings: what differs, as texts.

    left_out: cells (seed, site, stream) of a method that only one of the two has.
    """

    folders: tuple[str, str]
    metric: str
    pairs: tuple[MethodPair, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    left_out: int
    settings: tuple[tuple[str, Any, Any], ...]
    rule: str


def compare(first: Path, second: Path, metric: str = "auto") -> Comparison:
    """Compare two runs, or two studies, on clean images; rows are paired by seed, site, stream and method.

    In a study a method is told apart by the levels of the study's axes, too. metric: a score; ``auto``:
    accuracy, or balanced accuracy where classes are uneven in either. Raises FedMergeError where a folder is
    neither, the two are of different kinds, or they share no row.
    """
    kinds = [_kind(folder) for folder in (first, second)]
    if kinds[0] != kinds[1]:
        raise FedMergeError(
            f"'{first}' is a {kinds[0]} and '{second}' a {kinds[1]}: compare two runs or two studies."
        )
    tables = [_rows(folder, kind) for folder, kind in zip((first, second), kinds, strict=True)]
    both = pd.concat([table.assign(**{FOLDER: place}) for place, table in enumerate(tables)])
    chosen = ranking_metric(both, metric)
    known = [list(dict.fromkeys(table["method"])) for table in tables]
    shared = [method for method in known[0] if method in known[1]]
    pairs = [found for method in shared if (found := _pair(both, method, chosen)) is not None]
    if not pairs:
        raise FedMergeError(
            f"'{first}' and '{second}' share no method at one seed, site and stream: nothing can be paired. "
            "Run the second with the first one's seeds, unseen sites and streams."
        )
    only = tuple(tuple(name for name in names if name not in shared) for names in known)
    return Comparison(
        (str(first), str(second)), chosen, tuple(pairs), (only[0], only[1]), _unpaired(both, shared),
        tuple(_settings(first, second, kinds[0])), interval_rule(_paired(both)),
    )  # fmt: skip


def _kind(folder: Path) -> str:
    for name, kind in (("study.yaml", "study"), ("config.yaml", "run")):
        if is_there(folder / name):
            if not is_there(folder / "results.parquet"):
                raise FedMergeError(
                    f"the {kind} in '{short(folder)}' has no results yet: let it finish first."
                )
            return kind
    raise FedMergeError(
        f"'{short(folder)}' is neither a run nor a study: give the folders that `fedmerge run` or `fedmerge "
        "bench` wrote."
    )


def _rows(folder: Path, kind: str) -> pd.DataFrame:
    """Return the finished clean rows; in a study the levels of its axes stand behind a method's name."""
    from fedmerge.experiment.folder.reopen import read_table

    table = finished(read_table(folder / "results.parquet"))
    table = table[severities(table) == 0]
    if kind == "study":
        axes = [axis for axis in load_yaml(folder / "study.yaml").get("axes", {}) if axis in table]
        levels = table[axes].astype(str).agg(", ".join, axis=1) if axes else ""
        table = table.assign(method=table["method"] + (" (" + levels + ")" if axes else ""))
    return table


def _paired(both: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of cells that both folders have."""
    return both.groupby([*CELL, "method"]).filter(lambda rows: rows[FOLDER].nunique() == 2)


def _unpaired(both: pd.DataFrame, shared: Sequence[str]) -> int:
    rows = both[both["method"].isin(shared)]
    return int((rows.groupby([*CELL, "method"])[FOLDER].nunique() == 1).sum())


def _pair(both: pd.DataFrame, method: str, metric: str) -> MethodPair | None:
    rows = _paired(both[both["method"] == method])
    if rows.empty:
        return None
    found = difference(rows, 1, 0, FOLDER, metric)
    means = [float(rows.loc[rows[FOLDER] == place, metric].mean()) for place in (0, 1)]
    varies = rows[["seed", "site"]].nunique().max() > 1
    low, high = (found[f"difference_{end}"] if varies else math.nan for end in ("low", "high"))
    counts = (int(found[name]) for name in ("wins", "losses", "ties"))
    return MethodPair(method, means[0], means[1], found["difference"], low, high, *counts)


def _settings(first: Path, second: Path, kind: str) -> list[tuple[str, Any, Any]]:
    """Return the dotted fields in which the two configurations differ; of runs also versions and devices."""
    name = "study.yaml" if kind == "study" else "config.yaml"
    one, other = (_by_name(load_yaml(folder / name)) for folder in (first, second))
    found = list(differences(one, other))
    if kind == "run":
        from fedmerge.experiment.folder.reopen import read_mapping

        machines = [read_mapping(folder / "provenance.json") for folder in (first, second)]
        before, now = ({key: each.get(key) for key in ("versions", "device", "threads")} for each in machines)
        found += list(differences(before, now))
    return found


def _by_name(value: Any) -> Any:
    """Return a configuration whose lists of named sections are mappings by name, so that each is compared."""
    if isinstance(value, Mapping):
        return {str(key): _by_name(inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    names = [_name(each) for each in value]
    if value and None not in names and len(set(names)) == len(names):
        return {str(name): _by_name(each) for name, each in zip(names, value, strict=True)}
    return value


def _name(section: Any) -> str | None:
    found = section if isinstance(section, Mapping) else {}
    return found.get("label", found.get("name"))
