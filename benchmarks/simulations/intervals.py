"""How often 95 % intervals hold the truth, by simulation: several kinds of interval, in several worlds.

A world draws S seeds x H sites many times over, with a mean that is known. Coverage is the share of intervals
that hold it; width is relative to the interval that knows the standard error (1.96 of them either way).
`python -m benchmarks.simulations.intervals --out benchmarks/results/intervals.csv` takes about two minutes on
one core. `--page docs/studies.md` also writes the table there, between <!-- begin coverage --> and its end.
`--table FILE` takes the numbers of such a file and measures nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.pages import fill, markdown
from fedmerge.analysis.intervals import crossed_interval, inside
from fedmerge.seeding import numpy_generator

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int, int], Array]
SIZES = [(1, 4), (3, 1), (5, 1), (2, 2), (3, 3), (3, 4), (5, 4), (10, 4), (5, 10), (3, 19), (10, 10)]
SHOWN = [(1, 4), (3, 1), (2, 2), (3, 4), (5, 4), (3, 19), (5, 10), (10, 10)]
"""The sizes of the page's table."""


def effects(seed: float, site: float, rest: float, law: str = "normal") -> Draw:
    """Seed, site and rest with these standard deviations, mean 0; ``law`` is that of seeds and sites.

    A single seed or site has no effect: an interval over it alone cannot speak for others.
    """
    laws: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
        "normal": lambda rng, shape: rng.normal(size=shape),
        "heavy": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
        "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    }

    def draw(rng: np.random.Generator, n_seeds: int, n_sites: int, columns: int) -> Array:
        values = np.zeros((n_seeds, n_sites, columns))
        if n_seeds > 1:
            values += seed * laws[law](rng, (n_seeds, 1, columns))
        if n_sites > 1:
            values += site * laws[law](rng, (1, n_sites, columns))
        return values + rest * rng.normal(size=(n_seeds, n_sites, columns))

    return draw


def alike(rng: np.random.Generator, n_seeds: int, n_sites: int, columns: int) -> Array:
    """Seeds and sites have the same part in the variance of the mean, whatever their numbers."""
    return effects(math.sqrt(n_seeds), math.sqrt(n_sites), 0.3)(rng, n_seeds, n_sites, columns)


def missing(rng: np.random.Generator, n_seeds: int, n_sites: int, columns: int) -> Array:
    """A fifth of the cells is not there, others in each draw; the first cell always is."""
    values = effects(1, 1, 1)(rng, n_seeds, n_sites, columns)
    gone = rng.random(values.shape) < 0.2
    gone[0, 0] = False
    return np.where(gone, math.nan, values)


def accuracy(level: float) -> Draw:
    """Accuracies that end at 1: the logistic of a level with effects of seed, site and cell."""
    return lambda *given: 1 / (1 + np.exp(-level - effects(0.3, 1, 0.3)(*given)))


def paired(rng: np.random.Generator, n_seeds: int, n_sites: int, columns: int) -> Array:
    """Accuracies of two methods at the same hard and easy sites, one minus the other."""
    size = (rng, n_seeds, n_sites, columns)
    common = 2 + effects(0.3, 1, 0)(*size)
    first, second = (1 / (1 + np.exp(-common - gain - effects(0, 0.3, 0.2)(*size))) for gain in (0.3, 0))
    return np.asarray(first - second)


WORLDS: dict[str, Draw] = {
    "sites differ": effects(0, 1, 0.3),
    "seeds differ": effects(1, 0, 0.3),
    "only the rest": effects(0, 0, 1),
    "all three": effects(1, 1, 1),
    "seeds and sites alike": alike,
    "a fifth missing": missing,
    "heavy tails": effects(1, 1, 1, "heavy"),
    "accuracy near 0.9": accuracy(2.5),
    "paired accuracies": paired,
    "skewed": effects(1, 1, 1, "skewed"),
}
NORMAL, SHARES = list(WORLDS)[:6], "accuracy near 0.9"
BENT = (SHARES, "paired accuracies")
"""The worlds of normal effects, the one of shares, and those in which a mean is not that of its effects."""


def parts(x: Array) -> tuple[Array, Array, Array]:
    """Variances of the mean by seeds, sites and rest, of a full table; 0 where there is one level."""
    n_seeds, n_sites, columns = x.shape
    seeds, sites = x.mean(axis=1), x.mean(axis=0)
    rest = x - seeds[:, None] - sites[None] + x.mean(axis=(0, 1))
    free = (n_seeds - 1) * (n_sites - 1)
    return (
        seeds.var(axis=0, ddof=1) / n_seeds if n_seeds > 1 else np.zeros(columns),
        sites.var(axis=0, ddof=1) / n_sites if n_sites > 1 else np.zeros(columns),
        (rest**2).sum(axis=(0, 1)) / free / (n_seeds * n_sites) if free else np.zeros(columns),
    )


def t_half(variance: Array, free: Array | int) -> Array:
    return np.asarray(stats.t.ppf(0.975, np.maximum(free, 1)) * np.sqrt(variance))


def over_sites(x: Array) -> Array:
    return t_half(parts(x)[1], x.shape[1] - 1)


def over_seeds(x: Array) -> Array:
    return t_half(parts(x)[0], x.shape[0] - 1)


def wider(x: Array) -> Array:
    return np.maximum(over_seeds(x), over_sites(x))


def moments(x: Array) -> Array:
    """Components by the method of moments, negative ones 0, with Satterthwaite's degrees of freedom."""
    n_seeds, n_sites, _ = x.shape
    seeds, sites, rest = parts(x)
    a, b = np.maximum(seeds - rest, 0), np.maximum(sites - rest, 0)
    free = [max(n, 1) for n in (n_seeds - 1, n_sites - 1, (n_seeds - 1) * (n_sites - 1))]
    spread = a**2 / free[0] + b**2 / free[1] + rest**2 / free[2]
    return t_half(a + b + rest, (a + b + rest) ** 2 / spread)


def bootstrap(x: Array, draws: int = 1000) -> tuple[Array, Array]:
    """Bounds of the crossed bootstrap (Owen 2007), percentiles widened for few levels (Hesterberg 2015)."""
    n_seeds, n_sites, columns = x.shape
    rng = numpy_generator(0, "crossed bootstrap")
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in (n_seeds, n_sites)]
    joint = (weights[0][:, :, None] * weights[1][:, None, :]).reshape(draws, -1)
    n = min(n for n in (n_seeds, n_sites) if n > 1)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    low, high = np.quantile(joint @ x.reshape(-1, columns), [tail, 1 - tail], axis=0)
    return low, high


FULL = {
    "t over sites": over_sites, "t over seeds": over_seeds, "wider of both t": wider,
    "method of moments": moments,
}  # fmt: skip
OURS, BOOTSTRAP = "crossed_interval", "crossed bootstrap"


def bounds(x: Array, shares: bool) -> dict[str, tuple[Array, Array]]:
    """Lower and upper bound by kind of interval; with missing cells only ours. Ours of shares by log-odds."""
    found = crossed_interval(x)
    kinds = {OURS: (found.low, found.high)}
    if shares:
        there = inside(found, 0, 1)
        kinds = {OURS: (there.low, there.high), f"{OURS} without log-odds": kinds[OURS]}
    if np.isfinite(x).all():
        halves = {name: kind(x) for name, kind in FULL.items()}
        kinds |= {name: (found.mean - half, found.mean + half) for name, half in halves.items()}
        kinds[BOOTSTRAP] = bootstrap(x)
    return kinds


def truth(world: str, n_seeds: int, n_sites: int) -> float:
    """The mean: 0 of effects that add up, else that of two million cells."""
    if world not in BENT:
        return 0.0
    rng = numpy_generator(0, f"truth of {world}")
    return float(WORLDS[world](rng, n_seeds, n_sites, 2_000_000 // (n_seeds * n_sites)).mean())


def measure(
    sizes: Sequence[tuple[int, int]] = SIZES, worlds: Sequence[str] = tuple(WORLDS), columns: int = 4000
) -> pd.DataFrame:
    """Columns world, seeds, sites, interval, coverage, width. Intervals without a width are left out."""
    rows = []
    for world in worlds:
        for n_seeds, n_sites in sizes:
            x = WORLDS[world](numpy_generator(n_seeds, f"{world}, {n_sites}"), n_seeds, n_sites, columns)
            mean, error = truth(world, n_seeds, n_sites), float(np.nanmean(x, axis=(0, 1)).std())
            for name, (low, high) in bounds(x, world == SHARES).items():
                known = high > low
                if not known.any():
                    continue
                holds = ((low <= mean) & (mean <= high))[known].mean()
                width = (high - low)[known].mean() / (2 * stats.norm.ppf(0.975) * error)
                rows.append((world, n_seeds, n_sites, name, round(float(holds), 4), round(float(width), 3)))
    return pd.DataFrame(rows, columns=["world", "seeds", "sites", "interval", "coverage", "width"])


def table(rows: pd.DataFrame, sizes: Sequence[tuple[int, int]] = SHOWN) -> str:
    """Coverage in % and, after the stroke, width; below each world's line the same of the bootstrap."""
    known = rows.set_index(["world", "interval", "seeds", "sites"])[["coverage", "width"]]
    lines = []
    for world in dict.fromkeys(rows["world"]):
        for name in (OURS, BOOTSTRAP):
            keys = [(world, name, *size) for size in sizes]
            if not any(key in known.index for key in keys):
                continue
            cells = [_cell(*known.loc[key]) if key in known.index else "" for key in keys]
            lines.append([world, "ours", *cells] if name == OURS else ["", "bootstrap", *cells])
    return markdown(["world", "interval", *(f"{a} × {b}" for a, b in sizes)], lines, 2)


def _cell(coverage: float, width: float) -> str:
    return f"{100 * coverage:.1f} / {width:.1f}"


def summary(rows: pd.DataFrame) -> str:
    """A line a kind of interval: the least coverage and the mean width where several seeds and sites are."""
    part = rows[rows["world"].isin(NORMAL) & (rows[["seeds", "sites"]].min(axis=1) > 1)]
    part = part[part["world"] != "a fifth missing"]
    found = part.groupby("interval", sort=False).agg(least=("coverage", "min"), width=("width", "mean"))
    worst = part.loc[part.groupby("interval", sort=False)["coverage"].idxmin()].set_index("interval")
    lines = []
    for name, row in found.sort_values("least", ascending=False).iterrows():
        label, place = f"`{name}`" if name == OURS else str(name), worst.loc[name]
        where = f"{place['seeds']} × {place['sites']}, {place['world']}"
        lines.append([label, where, f"{100 * row['least']:.1f} %", f"{row['width']:.2f}"])
    return markdown(["interval", "least covered", "coverage there", "mean width"], lines, 2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=4000, help="draws of each world and size")
    parser.add_argument("--out", type=Path, help="write the numbers as CSV")
    parser.add_argument("--table", type=Path, help="take the numbers of such a file")
    parser.add_argument("--page", type=Path, help="write the tables between the marks of this page")
    args = parser.parse_args(argv)
    rows = pd.read_csv(args.table) if args.table else measure(columns=args.columns)
    if args.out:
        rows.to_csv(args.out, index=False, lineterminator="\n")
    blocks = {"coverage": table(rows), "coverage-kinds": summary(rows)}
    if args.page:
        args.page.write_text(fill(args.page.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    print("\n\n".join(blocks.values()))


if __name__ == "__main__":
    main()
