"""Where each method stood in our studies, read from the committed scores in benchmarks/results.

``python -m benchmarks.studies.standing kf`` prints what the site's page of `kf` says. Nothing is written by
hand: a study that is added or measured again is found by its CSV.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from benchmarks import RESULTS, ROOT
from benchmarks.pages import markdown
from fedmerge.analysis import leaderboard
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.entries import read_method
from fedmerge.merging import FUSION
from fedmerge.reports.figures.panels import signed
from fedmerge.testtime import TESTTIME

CONFIGS = ROOT / "configs"
STUDIES = ("bench-*.csv", "unseen-*.csv")
METRIC = "balanced_accuracy"
GROUPS = {"fusion": FUSION, "testtime": TESTTIME}
PLACES = ("cohort", "data", "site", "model", "parents", "split", "training", "recipe", "shift")
"""Columns that say where a row was measured, besides the axes of its study."""
APART = ("start", "training", "recipe", "images", "batch", "norm", "network")
"""Columns whose levels are told apart, each with a line of its own, where a study has one."""


class Standing(NamedTuple):
    """One entry of a study beside its reference: shares of balanced accuracy, or of accuracy under attack.

    place, of: by the mean, among the entries of methods that have every cell. cells: how many were compared.
    """

    study: str
    where: str
    label: str
    score: float
    reference: str
    difference: tuple[float, float, float]
    wins: int
    losses: int
    place: int | None
    of: int
    passes: float


@functools.cache
def standings(results: Path = RESULTS, configs: Path = CONFIGS) -> dict[tuple[str, str], list[Standing]]:
    """Return what the studies found, by group and name of the method. A CSV without methods tells nothing."""
    known = dict(_studies(configs))
    anywhere = {label: key for other in known.values() for label, key in entries(other, configs).items()}
    found: dict[tuple[str, str], list[Standing]] = {}
    for path in sorted({path for pattern in STUDIES for path in results.glob(pattern)}):
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
        if not {"seed", "method", METRIC} <= set(rows):
            continue
        study: dict[str, Any] = known.get(path.stem) or known.get(f"bench-{path.stem}") or {}
        methods = anywhere | entries(study, configs)
        for where, part in _parts(path.stem, rows, study):
            for standing in _standings(path.stem, where, part, study, methods):
                found.setdefault(methods[standing.label], []).append(standing)
    for attack, part in _attacks(results / "robustness.csv"):
        names = {name: ("aggregation", name) for name in part["method"].unique()}
        for standing in _standings("robustness", attack, part, {}, names):
            found.setdefault(names[standing.label], []).append(standing)
    return found


def entries(study: Mapping[str, Any], configs: Path = CONFIGS) -> dict[str, tuple[str, str]]:
    """Return the group and name of the method behind each label that a study's YAML names, base and axes."""
    base = study.get("base", {})
    if isinstance(base, str):
        base = _yaml(configs / f"{base}.yaml")
    changes = [
        level for axis in study.get("axes", {}).values() if isinstance(axis, dict) for level in axis.values()
    ]
    found: dict[str, tuple[str, str]] = {}
    for section in (base, study.get("set", {}), *changes):
        for name, registry in GROUPS.items():
            for entry in (section or {}).get(name, ()):
                try:
                    read = read_method(registry, entry)
                except (ValueError, FedMergeError):  # of a plug-in, or of a method that is gone
                    continue
                found[read.label] = (registry.group, read.method)
    return found


def standing_text(group: str, name: str) -> str:
    """Return the page's section on a method, as Markdown; a sentence where no study has it."""
    lines = standings().get((group, name), [])
    if not lines:
        return "No study whose rows are kept has it."
    score = "accuracy, %" if group == "aggregation" else "balanced accuracy, %"
    head = ["study", "entry", score, "against", "points, 95 % interval", "better, worse", "place"]
    table = markdown(head, [_row(line) for line in lines], words=2)
    named = ", ".join(
        f"`benchmarks/results/{study}.csv`" for study in dict.fromkeys(line.study for line in lines)
    )
    return (
        f"{table}\n\nDifferences are paired by seed, target and stream, on clean images; the interval speaks "
        "for other seeds and targets. *Better, worse* counts those pairs. *Place* is by the mean, among the "
        f"entries that were measured everywhere. Rows: {named}; the same from a checkout: "
        f"`python -m benchmarks.studies.standing {name}`."
    )


def cost_text(group: str, name: str) -> str:
    """Return what a prediction costs, from the studies' rows: forward and backward passes an image."""
    passes = sorted(
        {round(line.passes, 2) for line in standings().get((group, name), []) if line.passes == line.passes}
    )
    if not passes:
        return ""
    many = f"{passes[0]:g}" if len(passes) == 1 else f"{passes[0]:g} to {passes[-1]:g}"
    return f"Forward passes for each image, measured in the studies below: {many} (a hospital alone takes 1)."


def _row(line: Standing) -> list[str]:
    value, low, high = line.difference
    own = line.label == line.reference or math.isnan(value)
    points = (
        "" if own else f"{signed(value)} ({signed(low)} to {signed(high)})" if low == low else signed(value)
    )
    place = f"{line.place} of {line.of}" if line.place is not None else "not everywhere"
    study = f"{line.study}, {line.where}" if line.where else line.study
    against = "" if own else f"`{line.reference}`"
    wins = "" if own else f"{line.wins}, {line.losses}"
    return [study, f"`{line.label}`", f"{100 * line.score:.1f}", against, points, wins, place]


def _studies(configs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(configs.glob("*.yaml")):
        read = _yaml(path)
        if "base" in read:
            yield read["name"], read


def _yaml(path: Path) -> dict[str, Any]:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else {}


def _parts(name: str, rows: pd.DataFrame, study: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a study's rows, ready for a leaderboard: whole, or by level of the axis that is told apart."""
    if "severity" in rows:
        rows = rows[rows["severity"] == 0]
    places = [
        column for column in dict.fromkeys([*PLACES, *study.get("axes", {}), "batch"]) if column in rows
    ]
    apart = next((column for column in APART if column in rows and rows[column].nunique() > 1), None)
    joined = rows[places].astype(str).agg(", ".join, axis=1) if places else "one"
    rows = rows.assign(site=joined, stream=rows.get("stream", "iid"), cohort=name)
    if apart is None:
        yield "", rows
    else:
        for level, part in rows.groupby(apart, sort=False):
            yield f"{apart} {level}", part


def _standings(
    name: str,
    where: str,
    rows: pd.DataFrame,
    study: Mapping[str, Any],
    methods: Mapping[str, tuple[str, str]],
) -> Iterator[Standing]:
    """Yield one line for each entry of a registered method, in the order of their means."""
    rows = rows[rows["method"].isin(methods)]
    labels = [*rows["method"].unique()]
    if len(labels) < 2:  # nothing stands beside it
        return
    wished = study.get("reference") if study.get("compare", "method") == "method" else None
    reference = next((label for label in (wished, "mean", "federated") if label in labels), None)
    board = leaderboard(rows, "method", reference, METRIC)
    whole = [row for row in board.to_dict("records") if row["complete"]]
    places = {row["level"]: number for number, row in enumerate(whole, 1)}
    for row in board.to_dict("records"):
        yield Standing(
            study=name, where=where, label=row["level"], score=row["mean"], reference=reference or "",
            difference=(row["difference"], row["difference_low"], row["difference_high"]),
            wins=_number(row["wins"]), losses=_number(row["losses"]),
            place=places.get(row["level"]), of=len(whole), passes=row.get("forward_passes", math.nan),
        )  # fmt: skip


def _attacks(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of rounds under attack, by attack, as rows of a study; their score is accuracy."""
    if path.is_file():
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
        rows = rows[rows["share"] > 0]
        site = rows["patients"] + ", " + rows["share"].map("{:.0%} of the hospitals".format)
        rows = rows.rename(columns={"aggregator": "method", "accuracy": METRIC})
        rows = rows.assign(site=site, stream="iid", cohort="robustness")
        yield from rows.groupby("attack", sort=False)


def _number(value: float) -> int:
    return 0 if math.isnan(value) else int(value)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what the site's pages of the named methods say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="+", help="names as `fedmerge methods` lists them")
    for name in parser.parse_args(argv).methods:
        for group in ("fusion", "test-time", "aggregation"):
            if (group, name) in standings():
                print(f"{name} ({group})\n\n{standing_text(group, name)}\n")


if __name__ == "__main__":
    main()
