"""Intervals for a mean over seeds and sites: both are resampled, for both would differ another time."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedmerge.seeding import numpy_generator

Array = NDArray[np.float64]

BLOCK = 2**21
"""Numbers in one block of the calculation (16 MiB), so that memory stays flat in draws, cells and columns."""


@dataclass(frozen=True)
class Bounds:
    """The lower and upper bound of each of M means, shape M; NaN where there is nothing to resample."""

    low: Array
    high: Array


def crossed_bootstrap(
    values: Array, *, draws: int = 10_000, level: float = 0.95, seed: int = 0, over: Array | None = None
) -> Bounds:
    """Bootstrap interval of M means over S seeds crossed with H sites ("pigeonhole", Owen 2007).

    values: S x H x M, NaN for a missing cell. Each draw resamples the seeds and, independently, the sites
    with replacement; a seed drawn w_s times and a site drawn v_h times weigh their cell by the product:

        mean* = sum_sh w_s v_h x_sh / sum_sh w_s v_h   over the cells that have a value.

    With ``over`` (same shape) it is the interval of the ratio of two means, sum w v x / sum w v o, over the
    cells where both have a value, from the same draws. All columns share their draws, which depend on
    (S, H, draws, seed) alone.

    The bounds are percentiles at the tail probability of ``tail``, n the smallest number above 1 of seeds or
    sites with a value in that column: plain percentiles are too narrow for few levels (Hesterberg 2015). No
    draw leaves the range of the data, so with 2, 3 or 4 seeds at one site a 95 % interval is that range and
    covers a symmetric law's mean 50, 75 or 88 % of the time. With several seeds and sites it leans to the
    wide side: Owen's variance counts the residual of a cell up to three times. One seed and one site give
    NaN. (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007; T. C. Hesterberg, "What
    teachers should know about the bootstrap", The American Statistician 2015.)
    """
    n_seeds, n_sites, n_columns = values.shape
    x = np.asarray(values, dtype=float).reshape(n_seeds * n_sites, n_columns)
    o = np.ones_like(x) if over is None else np.asarray(over, dtype=float).reshape(x.shape)
    there = np.isfinite(x) & np.isfinite(o)
    levels = _levels(there.reshape(values.shape))
    low, high = np.full(n_columns, math.nan), np.full(n_columns, math.nan)
    columns = np.flatnonzero(levels > 1)
    weights = _weights(n_seeds, n_sites, draws, seed)
    step = max(1, BLOCK // draws)
    for start in range(0, len(columns), step):
        block = columns[start : start + step]
        keep = there[:, block]
        means = _ratio(weights, np.where(keep, x[:, block], 0.0), np.where(keep, o[:, block], 0.0))
        for n in np.unique(levels[block]):
            alike = levels[block] == n
            p = tail(level, int(n))
            low[block[alike]], high[block[alike]] = _quantiles(means[:, alike], p)
    return Bounds(low, high)


def tail(level: float, n: int) -> float:
    """Hesterberg's expanded tail probability Phi(-sqrt(n / (n - 1)) t_{1 - a/2, n - 1}), a = 1 - level.

    A resampled mean varies by the factor sqrt((n - 1) / n) too little and its quantiles are those of a normal
    law where Student's t is due; this puts both right for n levels.
    """
    from scipy import stats  # slow to import, and seldom needed

    t = stats.t.ppf((1 + level) / 2, n - 1)
    return float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * t))


def _levels(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """By column, the smallest number above 1 of seeds or of sites that have a value; 1 if neither has two."""
    counts = np.stack([there.any(axis=1).sum(axis=0), there.any(axis=0).sum(axis=0)])
    smallest = np.where(counts > 1, counts, np.iinfo(np.int64).max).min(axis=0)
    return np.where(counts.max(axis=0) > 1, smallest, 1)


@lru_cache(maxsize=8)  # one table is asked many times
def _weights(n_seeds: int, n_sites: int, draws: int, seed: int) -> tuple[Array, Array]:
    """How often each seed and each site was drawn (draws x S, draws x H)."""
    rng = numpy_generator(seed, "crossed bootstrap")
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws)
    sites = rng.multinomial(n_sites, np.full(n_sites, 1 / n_sites), size=draws)
    return seeds.astype(float), sites.astype(float)


def _ratio(weights: tuple[Array, Array], x: Array, o: Array) -> Array:
    """sum w v x / sum w v o by draw (rows) and column; NaN where no cell with a value was drawn."""
    seeds, sites = weights
    whole = (o == o[:, :1]).all()  # nothing missing differently: one denominator serves all columns
    means = np.empty((len(seeds), x.shape[1]))
    step = max(1, BLOCK // len(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(seeds), step):
            part = slice(start, start + step)
            joint = (seeds[part, :, None] * sites[part, None, :]).reshape(-1, len(x))
            means[part] = joint @ x / (joint @ (o[:, :1] if whole else o))
    return means


def _quantiles(means: Array, p: float) -> Array:
    by_column = np.ascontiguousarray(means.T)
    by_column[~np.isfinite(by_column)] = math.nan
    pick = np.nanquantile if np.isnan(by_column).any() else np.quantile
    with warnings.catch_warnings():  # a ratio to zeros has no draw with a value; NaN says so
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(pick(by_column, [p, 1 - p], axis=1))
