"""Divide one source over the hospitals that share it: how much each gets (share), and of which classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def partition(
    labels: np.ndarray,
    shares: Sequence[float],
    concentrations: Sequence[float | None],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Divide the samples over sites; every sample goes to exactly one site.

    labels: integers, N, from 0. Returns one int64 index array a site. See ``draw_proportions`` for the law
    of ``shares`` and ``concentrations``, and ``divide`` for the rounding.
    """
    n_classes = int(labels.max()) + 1 if len(labels) else 0
    return divide(labels, draw_proportions(n_classes, shares, concentrations, rng), rng)


def draw_proportions(
    n_classes: int,
    shares: Sequence[float],
    concentrations: Sequence[float | None],
    rng: np.random.Generator,
    takes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw which part of each class goes to which site: float64, sites x classes, each column sums to one.

    shares: s_i > 0. concentrations: a_i > 0, or None for a site without label skew. Small a: a class lies at
    few sites. takes: bool, sites x classes, at least one site a class (None: every site takes every class).

    Equal shares:  p_ic = g_ic / sum_j g_jc,  g_ic ~ Gamma(a_i) / a_i  (mean one), g_ic = 1 without skew.
    Equal concentrations give exactly Dirichlet(a, ..., a), the usual federated label skew (Hsu et al. 2019,
    arXiv 1909.06335). Where they differ, a site of less skew gets more on average: one without skew beside
    four of concentration 1 has 23.4 % and not 20.

    Shares that differ are kept on average: E p_ic = s_i / S_c, S_c the shares of the sites that take class c.
    With m_i = s_i / mean s, sites of one concentration a get Dirichlet(a m_1, ..., a m_n). Where
    concentrations differ, the sites of the least skew divide the class first, with all others as one:
    Dirichlet(a m_1, ..., a m_k, a m_others), and the others divide what is left in the same way. A site
    without skew so takes exactly its share.

    What is drawn for a site does not depend on ``takes``. The gammas are drawn as logarithms, log Gamma(k) =
    log Gamma(k + 1) + log(U) / k, so that tiny concentrations do not underflow to 0 / 0.
    """
    relative = np.asarray(shares, dtype=np.float64)
    uneven = bool((relative != relative[0]).any())
    size = relative / relative.mean() if uneven else np.ones(len(relative))
    log_weight = np.empty((len(shares), n_classes))
    for i, concentration in enumerate(concentrations):
        log_weight[i] = np.log(relative[i]) + _log_gamma(size[i], concentration, n_classes, rng)
    if takes is not None:
        log_weight[~takes] = -np.inf
    if not uneven or len(set(concentrations)) == 1:
        return _normalised(log_weight)
    held = np.where(np.isneginf(log_weight), 0.0, relative[:, None])
    return _least_skewed_first(log_weight, held, concentrations, relative.mean(), rng)


def _least_skewed_first(
    log_weight: np.ndarray,
    held: np.ndarray,
    concentrations: Sequence[float | None],
    unit: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw for unequal shares. held: shares, 0 where a site takes none of a class; unit: their mean."""
    skew = np.array([0.0 if a is None else 1 / a for a in concentrations])
    out, left = np.zeros_like(log_weight), np.ones(log_weight.shape[1])
    for level in np.unique(skew):
        now, others = skew == level, held[skew > level].sum(axis=0)
        there = np.where(others > 0, others, 1.0)
        lump = np.log(there) + _log_gamma(there / unit, 1 / level if level else None, len(there), rng)
        lump[others == 0] = -np.inf
        anyone = held[now].sum(axis=0) + others > 0
        drawn = _normalised(np.vstack([log_weight[now], np.where(anyone, lump, 0.0)]))
        out[now], left = drawn[:-1] * left, drawn[-1] * left
    return out / out.sum(axis=0)


def _log_gamma(
    size: float | np.ndarray, concentration: float | None, n: int, rng: np.random.Generator
) -> np.ndarray | float:
    """Draw n logarithms of Gamma(k) / k, of mean one, with k = size x concentration; 0 without skew."""
    if concentration is None:
        return 0.0
    shape = size * concentration
    gamma = np.log(rng.standard_gamma(shape + 1.0, n))
    return gamma + np.log1p(-rng.random(n)) / shape - np.log(shape)  # log of a uniform on (0, 1]


def _normalised(log_weight: np.ndarray) -> np.ndarray:
    """Columns that sum to one."""
    weight = np.exp(log_weight - log_weight.max(axis=0, initial=-np.inf))
    return weight / weight.sum(axis=0)


def divide(labels: np.ndarray, proportions: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Divide samples in given proportions, class by class.

    labels: integers, N. proportions: sites x classes; columns sum to one. Counts are rounded by largest
    remainder. Returns one sorted int64 index array a site; together they hold every index once.
    """
    parts: list[list[np.ndarray]] = [[] for _ in proportions]
    for label in range(proportions.shape[1]):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(largest_remainder(len(members), proportions[:, label]))[:-1]
        for part, piece in zip(parts, np.split(members, ends), strict=True):
            part.append(piece)
    empty = np.empty(0, dtype=np.int64)
    return [np.sort(np.concatenate([empty, *part])).astype(np.int64) for part in parts]


def largest_remainder(total: int, proportions: np.ndarray) -> np.ndarray:
    """Round ``total * proportions`` to integers that sum to ``total`` (Hamilton's method).

    Each takes its floor; what is left goes, one each, to the largest remainders (ties: the first).
    """
    exact = total * np.asarray(proportions, dtype=np.float64)
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts
