"""Intervals for a mean over seeds and sites, where both are random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmerge.errors import FedMergeError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """M means with their lower and upper bounds, each of shape M; bounds are NaN for a single cell."""

    mean: Array
    low: Array
    high: Array


def crossed_interval(values: Array, *, level: float = 0.95, over: Array | None = None) -> Interval:
    """Interval of M means over S seeds crossed with H sites: the widest of four t intervals.

    values: S x H x M, NaN for a missing cell. A cell is mean + seed + site + rest, all drawn at random, so
    the mean over all cells has the variance seed / S + site / H + rest / (S H). With A the variance of the
    seeds' means divided by S, B that of the sites' means divided by H, R that of the rest divided by S H,

        half = max(t(S - 1) sqrt A,  t(H - 1) sqrt B,  t((S - 1)(H - 1)) sqrt R,  t(v) sqrt(A + B - R)),
        v = (A + B)^2 / (A^2 / (S - 1) + B^2 / (H - 1)).

    A holds seed and rest, B site and rest, so A + B counts the rest twice: A + B - R is the analysis-of-
    variance estimate (Searle, Casella and McCulloch 1992; 0 where negative), v its degrees of freedom
    (Satterthwaite 1946) but for those of R, which are more. Alone it covers too little where one factor has
    few levels and decides; the others alone where both matter. Together they cover at least 94 % of the time
    in ``benchmarks/simulations/intervals.py`` wherever effects are normal, and are too wide where only the
    rest varies.

    One seed: the interval over sites alone, which says nothing of other seeds; one site: that over seeds
    alone. Two levels have one degree of freedom and t = 12.7, the price of knowing so little. Effects with
    one long tail and few levels are covered less often than ``level``, as by any interval of this kind.

    Where cells are missing, A is corrected so that it is right for the unequal numbers n_s of cells that
    stand behind the seeds, and its degrees of freedom are those of that sum of squares (``_factor``); B
    alike; R comes from a least-squares fit of seeds and sites to the cells that are there. Without degrees of
    freedom for it, nothing is subtracted.

    With ``over`` (same shape) it is the interval of the ratio r = sum x / sum o over the cells where both
    have a value, that of the linearised values (x - r o) / mean(o).

    Raises FedMergeError for values of another shape, an infinite one, and a level outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    o = np.ones_like(x) if over is None else np.asarray(over, dtype=float)
    if x.ndim != 3 or o.shape != x.shape:
        raise FedMergeError(f"values are {x.shape} and over {o.shape}: give both as seeds x sites x columns.")
    if not 0 < level < 1 or np.isinf(x).any() or np.isinf(o).any():
        raise FedMergeError(f"an interval is of finite values, at a level between 0 and 1; this is {level}.")
    there = ~np.isnan(x) & ~np.isnan(o)
    mean, z = _linearised(x, o, there)
    seeds, sites = _factor(z.sum(axis=1), there.sum(axis=1)), _factor(z.sum(axis=0), there.sum(axis=0))
    if not (seeds.several | sites.several).any():
        unknown = np.full_like(mean, math.nan)
        return Interval(mean, unknown, unknown)
    half = np.maximum.reduce(
        [
            np.where(seeds.several, _half(level, seeds.variance, seeds.free), 0),
            np.where(sites.several, _half(level, sites.variance, sites.free), 0),
            _together(level, seeds, sites, z, there),
        ]
    )
    half[~(seeds.several | sites.several)] = math.nan
    return Interval(mean, mean - half, mean + half)


def inside(found: Interval, least: float, greatest: float = math.inf) -> Interval:
    """Return the interval of means that lie between two ends, taken on a scale without ends.

    That is g(m) = log((m - a) / (b - m)), the log-odds of a share, or log(m - a) without an upper end; by the
    delta method half the interval is g'(m) times as long there. Its bounds stay between the ends and are
    longer on the side where there is room, which is also where a mean near an end errs: with accuracies about
    0.9 at 5 x 4 it covers 93 % of the time, the plain interval 88 %
    (``benchmarks/simulations/intervals.py``). Means at or beyond an end keep their bounds, cut at the ends.
    """
    half, below, above = found.high - found.mean, found.mean - least, greatest - found.mean
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if math.isinf(greatest):
            low, high = (least + below * np.exp(side * half / below) for side in (-1, 1))
        else:
            steeper = half * (greatest - least) / (below * above)
            low, high = (
                least + (greatest - least) / (1 + above / below * np.exp(-side * steeper)) for side in (-1, 1)
            )
    free = (below > 0) & (above > 0)
    return Interval(
        found.mean,
        np.where(free, np.minimum(low, found.mean), np.maximum(found.low, least)),
        np.where(free, np.maximum(high, found.mean), np.minimum(found.high, greatest)),
    )


class _Factor(NamedTuple):
    """The variance of M means by one factor (seeds or sites), its degrees of freedom, its share of the rest.

    several: the factor has more than one level. rest: how often the variance of a cell's rest is in it.
    """

    several: Mask
    variance: Array
    free: Array
    rest: Array


def _linearised(x: Array, o: Array, there: Mask) -> tuple[Array, Array]:
    """The ratio of the sums (M), and each cell's deviation from it (S x H x M), 0 where there is none."""
    x, o = np.where(there, x, 0), np.where(there, o, 0)
    total, number = o.sum(axis=(0, 1)), there.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = x.sum(axis=(0, 1)) / total
        mean[~np.isfinite(mean)] = math.nan
        return mean, np.where(there, (x - mean * o) * number / total, 0)


def _factor(sums: Array, counts: NDArray[np.int64]) -> _Factor:
    """The variance of M means by the levels of one factor: sums and numbers of their cells, levels x M.

    With weights w_s = n_s / n and m_s the mean of level s, of independent levels of variance v the mean has
    variance v sum w^2, and Q = sum (w_s (m_s - mean))^2 is the quadratic form of the matrix
    F = (I - 1 w')' diag(w^2) (I - 1 w') with expectation v tr F and 2 (tr F)^2 / Var(Q / v) =
    (tr F)^2 / tr F^2 degrees of freedom (Bell and McCaffrey 2002 do so for clusters). With equal numbers it
    is the variance of the means divided by S, with S - 1.
    """
    n = np.maximum(counts.sum(axis=0), 1)
    w = counts / n
    p2, p3, p4, p5 = ((w**k).sum(axis=0) for k in (2, 3, 4, 5))
    several = (counts > 0).sum(axis=0) > 1
    trace = np.where(several, p2 - 2 * p3 + p2**2, 1)
    square = np.where(several, p4 - 4 * p5 + 4 * p2 * p4 + 2 * p3**2 - 4 * p2**2 * p3 + p2**4, 1)
    scale = np.where(several, p2 / trace, 0)
    return _Factor(
        several,
        variance=scale * ((sums / n) ** 2).sum(axis=0),
        free=trace**2 / square,
        rest=scale * (1 - p2) / n,
    )


def _together(level: float, seeds: _Factor, sites: _Factor, z: Array, there: Mask) -> Array:
    """Half the wider t interval of the rest, and of all; 0 where seeds or sites have no two levels."""
    half = np.zeros(z.shape[2])
    at = np.flatnonzero(seeds.several & sites.several)
    if not len(at):
        return half
    rest, free_rest = _rest(z[:, :, at], there[:, :, at])
    a, b, n = seeds.variance[at], sites.variance[at], there[:, :, at].sum(axis=(0, 1))
    once = seeds.rest[at] + sites.rest[at] - 1 / n
    spread = a**2 / seeds.free[at] + b**2 / sites.free[at]
    free = np.divide((a + b) ** 2, spread, out=np.ones_like(a), where=spread > 0)
    half[at] = np.maximum(_half(level, rest / n, free_rest), _half(level, a + b - once * rest, free))
    return half


def _rest(z: Array, there: Mask) -> tuple[Array, Array]:
    """The variance of a cell that neither its seed nor its site explains, and its degrees of freedom.

    Least squares: the means of the factor with more levels are taken off, then what the other explains of
    what is left. Without degrees of freedom the variance is 0 with 1.
    """
    if len(z) > z.shape[1]:
        z, there = z.transpose(1, 0, 2), there.transpose(1, 0, 2)
    levels, _, n_columns = z.shape
    variance, freedom = np.zeros(n_columns), np.ones(n_columns)
    patterns, which = np.unique(there.reshape(-1, n_columns), axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        cells, columns = pattern.reshape(levels, -1, 1), np.flatnonzero(which.ravel() == i)
        design = np.broadcast_to(np.eye(levels)[:, None, :], (*cells.shape[:2], levels))
        basis, size, _ = np.linalg.svd(_centred(design, cells), full_matrices=False)
        basis = basis[:, size > 1e-9]
        free = pattern.sum() - cells.any(axis=0).sum() - basis.shape[1]
        if free > 0:
            y = _centred(z[:, :, columns], cells)
            variance[columns] = ((y - basis @ (basis.T @ y)) ** 2).sum(axis=0) / free
            freedom[columns] = free
    return variance, freedom


def _centred(values: Array, cells: Mask) -> Array:
    """Values (levels x others x M) less the mean of each of the others, a row a cell; 0 where none is."""
    values = np.where(cells, values, 0)
    mean = values.sum(axis=0) / np.maximum(cells.sum(axis=0), 1)
    return np.where(cells, values - mean, 0).reshape(-1, values.shape[2])


def _half(level: float, variance: Array, free: Array) -> Array:
    """Half of a t interval; a negative variance is none."""
    from scipy.special import stdtrit  # slow to import, and seldom needed

    return np.asarray(stdtrit(free, (1 + level) / 2) * np.sqrt(np.maximum(variance, 0)))
