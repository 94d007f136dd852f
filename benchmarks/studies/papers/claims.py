"""Claims of the papers, each decided by one rule on the rows that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from benchmarks.studies.papers import cells
from fedmerge.analysis.intervals import Interval, crossed_interval

HOLDS, PART, NOT, OPEN = "holds", "holds in part", "does not hold here", "open"
UNTESTABLE, UNTESTED = "cannot be tested here", "not tested yet"
VERDICTS = (HOLDS, PART, NOT, OPEN, UNTESTABLE, UNTESTED)
MARGIN = ["setting", "seed", "value"]
LEAST = 3
"""Seeds of a setting that counts."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is decided.

    place: its figure, table or section. says: the claim. here: what is measured, in words: a margin that is
    above zero where the claim is right. margin: the rows' function, a frame with ``MARGIN``; None: no rows,
    and ``why`` says why. unit: of the margin, and what it is multiplied by for it. every: the margin is 1
    where a statement held and 0 where not; it must always hold. untested: nothing forbids a test, there is
    none yet. key: what it comes to, for the first lines of the page; "": not among them.
    """

    place: str
    says: str
    here: str
    margin: Callable[[Rows], pd.DataFrame] | None = None
    unit: tuple[str, float] = ("points", 100.0)
    every: bool = False
    why: str = ""
    untested: bool = False
    key: str = ""


@dataclass(frozen=True)
class Decided:
    """A claim's verdict: the mean margin over settings and seeds with its interval, and the settings' own.

    above, below: settings whose own interval is on that side of zero.
    """

    claim: Claim
    verdict: str
    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    seeds: int = 0
    settings: int = 0
    above: int = 0
    below: int = 0


class Rows:
    """The committed rows, read when they are asked for."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self._read: dict[str, pd.DataFrame] = {}

    def of(self, name: str) -> pd.DataFrame:
        """Return papers-NAME.csv; no rows where it is not there."""
        if name not in self._read:
            path = self.folder / f"papers-{name}.csv"
            self._read[name] = cells.read(path) if path.is_file() else cells.empty()
        return self._read[name]

    def bench(self, name: str) -> pd.DataFrame:
        """Return bench-NAME.csv, of a study of the bench."""
        if name not in self._read:
            self._read[name] = pd.read_csv(self.folder / f"bench-{name}.csv", dtype={"parents": str})
        return self._read[name]


def decide(claim: Claim, rows: Rows, least: int = LEAST) -> Decided:
    """Decide a claim.

    Every setting has a t interval over its seeds; all together one over seeds crossed with settings
    (``crossed_interval``), 95 % each. Holds: all together above zero, and no setting below. Does not hold:
    all together below, or some setting below and none above. Holds in part: some setting above. Open: none
    above or below, so seeds are too few to say. A claim about every case holds where it always held, does
    not where it never did, and holds in part between. A setting of fewer than ``least`` seeds is left out.
    """
    if claim.margin is None:
        return Decided(claim, UNTESTED if claim.untested else UNTESTABLE)
    margins = claim.margin(rows)
    if margins.empty:
        return Decided(claim, UNTESTED)
    table = margins.pivot_table(index="seed", columns="setting", values="value")
    if not claim.every:
        table = table.loc[:, table.notna().sum() >= least].dropna(how="all")
    values = table.to_numpy(dtype=float)
    if not values.size:
        return Decided(claim, UNTESTED)
    if claim.every:
        held = float(np.nanmean(values))
        verdict = HOLDS if held == 1 else NOT if held == 0 else PART
        return Decided(claim, verdict, held, seeds=len(table), settings=len(table.columns))
    whole = crossed_interval(values[:, :, None])
    mean, low, high = (float(part[0]) for part in whole_of(whole))
    own = [crossed_interval(values[:, [i], None]) for i in range(values.shape[1])]
    above = sum(float(each.low[0]) > 0 for each in own)
    below = sum(float(each.high[0]) < 0 for each in own)
    verdict = _verdict(low, high, above, below)
    return Decided(claim, verdict, mean, low, high, len(table), len(table.columns), above, below)


def whole_of(found: Interval) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and bounds."""
    return found.mean, found.low, found.high


def _verdict(low: float, high: float, above: int, below: int) -> str:
    if low > 0 and not below:
        return HOLDS
    if high < 0 or (below and not above):
        return NOT
    return PART if above else OPEN


def pick(frame: pd.DataFrame, part: str, metric: str, case: str, **at: object) -> pd.Series:
    """Return values by setting and seed, means over what else differs."""
    found = frame[(frame["part"] == part) & (frame["metric"] == metric) & (frame["case"] == case)]
    for name, value in at.items():
        found = found[found[name] == value]
    return found.groupby(["setting", "seed"])["value"].mean()


def framed(series: pd.Series) -> pd.DataFrame:
    """Return values by setting and seed as a frame of margins."""
    return series.dropna().rename("value").reset_index()[MARGIN]


def less(
    name: str, part: str, metric: str, first: str, second: str, **at: object
) -> Callable[[Rows], pd.DataFrame]:
    """The margin ``first`` minus ``second``, two cases of one part. within: settings whose name holds it."""
    within = str(at.pop("within", ""))

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(name)
        found = framed(pick(frame, part, metric, first, **at) - pick(frame, part, metric, second, **at))
        return found[found["setting"].str.contains(within)] if within else found

    return margin


def over(
    name: str, part: str, metric: str, case: str, bound: float, sign: int = 1, **at: object
) -> Callable[[Rows], pd.DataFrame]:
    """The margin of a case over a bound (``sign`` 1) or under it (-1)."""
    within = str(at.pop("within", ""))

    def margin(rows: Rows) -> pd.DataFrame:
        found = framed(sign * (pick(rows.of(name), part, metric, case, **at) - bound))
        return found[found["setting"].str.contains(within)] if within else found

    return margin


def near(within: float, made: Callable[[Rows], pd.DataFrame]) -> Callable[[Rows], pd.DataFrame]:
    """The margin by which two cases are nearer than ``within``: what is left of it, for each seed."""

    def margin(rows: Rows) -> pd.DataFrame:
        found = made(rows)
        return found.assign(value=within - found["value"].abs())

    return margin


def benched(
    studies: Sequence[str],
    first: str,
    second: str,
    by: Sequence[str] = (),
    score: str = "accuracy",
    **levels: str,
) -> Callable[[Rows], pd.DataFrame]:
    """The margin of two methods in studies of the bench, over sites; a setting: a study, and levels ``by``.

    ``parents`` are the mean of the models' own scores (methods ``alone:NAME``).
    """

    def margin(rows: Rows) -> pd.DataFrame:
        return pd.concat(
            [_bench(rows.bench(name), name, first, second, by, score, levels) for name in studies]
        )

    return margin


def _bench(
    frame: pd.DataFrame,
    name: str,
    first: str,
    second: str,
    by: Sequence[str],
    score: str,
    levels: dict[str, str],
) -> pd.DataFrame:
    for column, level in levels.items():
        frame = frame[frame[column] == level]
    column = next((each for each in ("method", "training", "setting") if each in frame), "method")
    keys = [*by, "seed"]
    parts = [_scored(frame, column, which, keys, score) for which in (first, second)]
    found = (parts[0] - parts[1]).dropna().rename("value").reset_index()
    labels = [name, *(found[each].astype(str) for each in by)]
    found["setting"] = labels[0]
    for each in labels[1:]:
        found["setting"] = found["setting"] + " " + each
    return found[MARGIN]


def _scored(frame: pd.DataFrame, column: str, which: str, keys: list[str], score: str) -> pd.Series:
    if which == "parents":
        chosen = frame[frame[column].str.startswith("alone:")]
    elif which == "best parent":
        chosen = frame[frame[column].str.startswith("alone:")]
        return chosen.groupby(keys)[score].max()
    else:
        chosen = frame[frame[column] == which]
    return chosen.groupby(keys)[score].mean()
