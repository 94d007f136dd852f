from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from fedmerge.merging.neurons.kmeans import Starts, averaging, kmeans


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grams(z: Tensor) -> tuple[Tensor, Tensor]:
    """The same table twice: nothing is projected."""
    outer = z.T @ z
    return outer, outer


def test_clusters_made_by_hand_are_found_whatever_the_first_pick() -> None:
    """Points 0, 1, 10, 11, 20, 21 on a line: three pairs, each half a unit from its mean, six times 1/2."""
    z = torch.tensor([[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]], dtype=torch.float64)
    ones = torch.ones(6, dtype=torch.float64)
    for seed in range(6):
        found = kmeans(*grams(z), ones, 3, rng=rng(seed), starts=Starts(tries=1))
        a = found.assignment.tolist()
        assert a[0] == a[1] != a[2] == a[3] != a[4] == a[5] != a[0]
        assert found.cost == pytest.approx(3.0)
    assert kmeans(*grams(z), ones, 3, rng=rng(), cost="squared").cost == pytest.approx(6 * 0.25)


def test_a_tie_goes_to_the_lowest_index() -> None:
    """Point 0 lies between the centroids -1 and 1: it joins the first of them, which moves and keeps it."""
    z = torch.tensor([[-1.0, 1.0, 0.0]], dtype=torch.float64)
    for start, wanted in (([0, 1], [0, 1, 0]), ([1, 0], [1, 0, 0])):
        found = kmeans(
            *grams(z),
            torch.ones(3, dtype=torch.float64),
            2,
            rng=rng(),
            starts=Starts(given=torch.tensor(start)),
        )
        assert found.assignment.tolist() == wanted


@pytest.mark.parametrize("cost", ["l2", "squared"])
def test_where_it_ends_no_neuron_is_nearer_to_another_centroid(cost: Literal["l2", "squared"]) -> None:
    """Distances recomputed from rows: of a neuron to the projection of its cluster's weighted mean."""
    draws = rng(1)
    z = torch.randn(30, 24, generator=draws, dtype=torch.float64)
    x = torch.randn(30, 12, generator=draws, dtype=torch.float64)
    scores = torch.rand(24, generator=draws, dtype=torch.float64) + 0.1
    fit = x @ torch.linalg.pinv(x) @ z
    found = kmeans(z.T @ z, fit.T @ fit, scores, 5, rng=rng(), gain=0.0, cost=cost, starts=Starts(tries=1))
    means = torch.stack(
        [
            (scores * fit)[:, found.assignment == k].sum(1) / scores[found.assignment == k].sum()
            for k in range(5)
        ]
    )
    distances = (z.T[:, None] - means[None]).norm(dim=2)
    assert distances.argmin(1).tolist() == found.assignment.tolist()
    own = distances.gather(1, found.assignment[:, None])[:, 0]
    assert found.cost == pytest.approx(float((scores * (own if cost == "l2" else own**2)).sum()))


def test_no_cluster_is_empty_where_neurons_are_the_same() -> None:
    """Three points, four times each, in seven clusters: at least four of them start with nobody."""
    z = torch.tensor([[0.0, 5.0, 9.0]], dtype=torch.float64).repeat(1, 4)
    for seed in range(5):
        found = kmeans(
            *grams(z), torch.ones(12, dtype=torch.float64), 7, rng=rng(seed), starts=Starts(tries=1)
        )
        assert (torch.bincount(found.assignment, minlength=7) > 0).all()
        assert found.cost == pytest.approx(0.0, abs=1e-6)


def test_as_many_clusters_as_neurons_keep_each_neuron_alone() -> None:
    z = torch.randn(9, 8, generator=rng(), dtype=torch.float64)
    found = kmeans(*grams(z), torch.ones(8, dtype=torch.float64), 8, rng=rng())
    assert sorted(found.assignment.tolist()) == list(range(8))


def test_importances_may_be_in_any_unit() -> None:
    z = torch.randn(9, 20, generator=rng(), dtype=torch.float64)
    scores = torch.rand(20, generator=rng(1), dtype=torch.float64) + 0.1
    one, two = (kmeans(*grams(z), s, 6, rng=rng(2)) for s in (scores, 1024 * scores))
    assert one.assignment.tolist() == two.assignment.tolist()
    assert two.cost == pytest.approx(1024 * one.cost)


def test_the_first_centroid_is_one_of_the_leading_neurons() -> None:
    """Of 50 points at 0, 1, …, 49 two lead: the first pick is 0 or 1, the farthest from it 49, so that the
    first of two clusters holds point 0 and the second point 49, whatever the draw."""
    z = torch.arange(50, dtype=torch.float64)[None]
    ones = torch.ones(50, dtype=torch.float64)
    for seed in range(20):
        found = kmeans(*grams(z), ones, 2, rng=rng(seed), starts=Starts(tries=1, first=2))
        assert found.assignment[[0, 49]].tolist() == [0, 1]


def test_more_tries_are_never_dearer() -> None:
    z = torch.randn(9, 40, generator=rng(), dtype=torch.float64)
    ones = torch.ones(40, dtype=torch.float64)
    costs = [kmeans(*grams(z), ones, 9, rng=rng(4), starts=Starts(tries)).cost for tries in (1, 3, 10)]
    assert costs[0] >= costs[1] >= costs[2]
    assert costs[0] > costs[2]


def test_averaging_weighs_members_by_importance() -> None:
    weights = averaging(torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, 3.0]), 2)
    assert weights.tolist() == [[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]
