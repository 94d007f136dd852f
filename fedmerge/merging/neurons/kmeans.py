"""Weighted k-means over neurons, in Gram form: after the sums are gathered, no sample is seen again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Cost = Literal["squared", "l2"]
MAX_STEPS = 100
"""Of one try."""


@dataclass(frozen=True)
class Clusters:
    """Which cluster each of n neurons is in (int64), and what that costs."""

    assignment: Tensor
    cost: float
    steps: int


@dataclass(frozen=True)
class Starts:
    """Where tries begin: at farthest-first draws, or at given centroids.

    tries: how many draws. first: how many of the leading neurons the first centroid is drawn from; None: all.
    given: indices of the first centroids; then one try is made.
    """

    tries: int = 10
    first: int | None = None
    given: Tensor | None = None


STARTS = Starts()


def averaging(assignment: Tensor, scores: Tensor, width: int) -> Tensor:
    """Weights of each cluster's mean: width x n, ``R_kj = s_j [k_j = k] / S_k``; each row sums to one."""
    weights = torch.zeros(width, len(scores), dtype=scores.dtype, device=scores.device)
    weights[assignment, torch.arange(len(scores), device=scores.device)] = scores
    return weights / weights.sum(1, keepdim=True)


def kmeans(
    outer: Tensor,
    projected: Tensor,
    scores: Tensor,
    width: int,
    *,
    rng: torch.Generator,
    starts: Starts = STARTS,
    cost: Cost = "l2",
    gain: float = 0.05,
) -> Clusters:
    """Cluster n neurons into ``width`` groups, none empty; the cheapest of several tries.

    outer: n x n, ``K = Z^T Z`` of the neurons' activations. projected: n x n, ``Kh = Z^T P Z`` with P the
    projection onto what the fused model's layer can express (``K`` itself where nothing is projected).
    scores: n importances s_j > 0.

    The squared distance of neuron i to the projected mean of cluster k, whose weighted mean is Z R_k, is

        d2_ki = K_ii - 2 (Kh R)_ik + (R^T Kh R)_kk

    and a try's cost is ``sum_i s_i d_i`` (``l2``, as in the authors' program) or ``sum_i s_i d_i^2``
    (``squared``, what theorem 2 is about). A try ends when the assignment repeats, or when the cost is not
    below ``1 - gain`` of that three steps earlier. Empty clusters take the neuron with the largest ``s_i
    d_i`` of a cluster with more than one member, before a try may end: the authors' program may end first and
    leave neurons zero. Ties go to the lowest index. Source: arXiv 2507.00037; each step costs O(n^2).
    """
    best: Clusters | None = None
    given = starts.given
    for seeds in _farthest_first(outer, projected, width, starts, rng) if given is None else [given]:
        found = _lloyd(outer, projected, scores, width, seeds, cost, gain)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return best


def _farthest_first(
    outer: Tensor, projected: Tensor, width: int, starts: Starts, rng: torch.Generator
) -> Tensor:
    """For each try, a random neuron, then again and again the one farthest from those chosen; none twice.

    Returns tries x width; all tries advance side by side, which takes no longer than one.
    """
    own, own_projected = outer.diagonal(), projected.diagonal()
    draws = [int(torch.randint(starts.first or len(own), (1,), generator=rng)) for _ in range(starts.tries)]
    index, each = torch.tensor(draws, device=outer.device), torch.arange(starts.tries, device=outer.device)
    chosen, nearest = [index], torch.full((starts.tries, len(own)), torch.inf).to(outer)
    for _ in range(width - 1):
        nearest = torch.minimum(nearest, own - 2 * projected[index] + own_projected[index][:, None])
        nearest[each, index] = -torch.inf
        index = nearest.argmax(1)
        chosen.append(index)
    return torch.stack(chosen, 1)


def _lloyd(
    outer: Tensor,
    projected: Tensor,
    scores: Tensor,
    width: int,
    seeds: Tensor,
    cost: Cost,
    gain: float,
) -> Clusters:
    own, weighted = outer.diagonal(), projected * scores[:, None]
    assignment = (projected.diagonal()[seeds][:, None] - 2 * projected[seeds]).argmin(0)
    history: list[float] = []
    step = 0
    for step in range(1, MAX_STEPS + 1):  # noqa: B007
        assignment = _refill(assignment, torch.zeros_like(own), scores, width)
        distances = _distances(own, weighted, assignment, scores, width)
        new = distances.argmin(1)
        squared = distances.gather(1, new[:, None])[:, 0].clamp(min=0)
        new = _refill(new, squared, scores, width)
        history.append(float((scores * (squared if cost == "squared" else squared.sqrt())).sum()))
        repeated = bool((new == assignment).all())
        assignment = new
        if repeated or (len(history) > 3 and history[-1] >= (1 - gain) * history[-4]):
            break
    return Clusters(assignment, history[-1], step)


def _distances(own: Tensor, weighted: Tensor, assignment: Tensor, scores: Tensor, width: int) -> Tensor:
    """n x width squared distances to the clusters' projected means; sums over members, no one-hot product.

    weighted: row j is s_j times row j of Kh. Kh is symmetric, so rows are added, which lie together in
    memory.
    """
    totals = scores.new_zeros(width).index_add_(0, assignment, scores)
    means = weighted.new_zeros(width, len(own)).index_add_(0, assignment, weighted).div_(totals[:, None])
    inner = scores * means.gather(0, assignment[None, :])[0]
    centres = scores.new_zeros(width).index_add_(0, assignment, inner) / totals
    return means.mul_(-2).add_(own).add_(centres[:, None]).T


def _refill(assignment: Tensor, squared: Tensor, scores: Tensor, width: int) -> Tensor:
    """Give every empty cluster the neuron that is worst served where it is, from a cluster that keeps one."""
    counts = torch.bincount(assignment, minlength=width)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if not empty:
        return assignment
    assignment = assignment.clone()
    need = scores * squared.sqrt()
    for cluster in empty:
        free = counts[assignment] > 1
        worst = int(torch.where(free, need, torch.full_like(need, -torch.inf)).argmax())
        counts[assignment[worst]] -= 1
        counts[cluster] += 1
        assignment[worst] = cluster
        need[worst] = 0
    return assignment
