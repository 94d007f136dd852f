"""Hospitals that share one source of images divide it: how much each gets (share) and of which classes."""

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
    """Which part of each class goes to which site: float64, sites x classes, each column sums to one.

    For class c:  p_ic = s_i g_ic / sum_j s_j g_jc,  g_ic ~ Gamma(a_i) / a_i  (mean one), and g_ic = 1 where
    the concentration a_i is None (no label skew). Equal shares and equal concentrations a give exactly
    Dirichlet(a, ..., a), the usual federated label skew (Hsu et al. 2019, arXiv 1909.06335). Small a: a class
    lies at few sites. takes: bool, sites x classes, at least one site a class; the other s_i g_ic are zero
    (None: every site takes every class). What is drawn does not depend on it.

    The gammas are drawn as logarithms, log Gamma(a) = log Gamma(a + 1) + log(U) / a, so that tiny
    concentrations do not underflow to 0 / 0.
    """
    log_weight = np.empty((len(shares), n_classes))
    for i, (share, concentration) in enumerate(zip(shares, concentrations, strict=True)):
        log_weight[i] = np.log(share)
        if concentration is not None:
            gamma = np.log(rng.standard_gamma(concentration + 1.0, n_classes))
            uniform = np.log1p(-rng.random(n_classes))  # log of a uniform on (0, 1]
            log_weight[i] += gamma + uniform / concentration - np.log(concentration)
    if takes is not None:
        log_weight[~takes] = -np.inf
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
