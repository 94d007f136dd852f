from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.merging.matching.hungarian_fusion import pair_all, reference_cost
from fedmerge.models.graph import Group
from tests.facts import refused

Make = Callable[..., nn.Module]
N, ROWS, D = 6, 40, 10


class Random:
    """Inputs X, pre-activations A and B that X cannot express wholly, importances; and the sums over rows."""

    def __init__(self, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.x = torch.randn(ROWS, D, generator=rng, dtype=torch.float64)
        self.z = torch.randn(ROWS, 2 * N, generator=rng, dtype=torch.float64)
        self.scores = torch.rand(2 * N, generator=rng, dtype=torch.float64) + 0.1
        self.weights = torch.linalg.pinv(self.x) @ self.z
        self.outer = self.z.T @ self.z
        fitted = self.x @ self.weights
        self.projected = fitted.T @ fitted

    def pair(self, i: int, j: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """a_i, b_j, s_i, s_j and y_ij = X (s_i w_i + s_j w_j) / (s_i + s_j)."""
        s, t = self.scores[i], self.scores[N + j]
        w = (s * self.weights[:, i] + t * self.weights[:, N + j]) / (s + t)
        return self.z[:, i], self.z[:, N + j], s, t, self.x @ w


def test_cost_l2_is_the_sum_of_distances_to_the_fitted_mean() -> None:
    """(C.4) from sums equals (C.3), ``s_i |y_ij - a_i| + s_j |y_ij - b_j|``, from rows."""
    data = Random()
    found = reference_cost(data.outer, data.projected, data.scores)
    wanted = torch.empty(N, N, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            a, b, s, t, y = data.pair(i, j)
            wanted[i, j] = s * (y - a).norm() + t * (y - b).norm()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_the_squared_cost_needs_only_the_distance_of_the_fits(seed: int) -> None:
    """The pairing is the best for ``s_i |y_ij - a_i|^2 + s_j |y_ij - b_j|^2`` (C.5), residuals and all."""
    data = Random(seed)
    whole = torch.empty(N, N, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            a, b, s, t, y = data.pair(i, j)
            whole[i, j] = s * (y - a).square().sum() + t * (y - b).square().sum()
    form = Group("", N, torch.zeros(N, dtype=torch.int64), None)
    permutations, _ = pair_all(data.projected, data.scores, 2, form)
    assert permutations[1].tolist() == linear_sum_assignment(whole.numpy())[1].tolist()


def test_more_models_end_where_no_model_alone_can_be_paired_better() -> None:
    """At the end, ``sum_k sum_m s |z - mean|^2`` grows if any two neurons of a later model change places."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(30, 3 * N, generator=rng, dtype=torch.float64)
    scores = torch.rand(3 * N, generator=rng, dtype=torch.float64) + 0.1
    form = Group("", N, torch.zeros(N, dtype=torch.int64), None)
    found, sweeps = pair_all(z.T @ z, scores, 3, form)
    assert sweeps < 50

    def cost(permutations: list[Tensor]) -> float:
        places = torch.stack([p + m * N for m, p in enumerate(permutations)])
        s = scores[places]
        mean = (s[None] * z[:, places]).sum(1) / s.sum(0)
        return float((s[None] * (z[:, places] - mean[:, None]).square()).sum())

    best = cost(found)
    for m in (1, 2):
        for i in range(N):
            for j in range(i):
                other = [p.clone() for p in found]
                other[m][[i, j]] = other[m][[j, i]]
                assert cost(other) > best


def test_l2_with_three_models_is_refused(network: Make, images: Tensor) -> None:
    with refused("models", 3, "cost:"):
        fm.merge([network("mlp", seed) for seed in range(3)], "hf", data=images, cost="l2")


def test_missing_images_are_named(network: Make) -> None:
    with refused("'hf'", "data="):
        fm.merge([network("mlp", seed) for seed in range(2)], "hf")


def test_models_of_other_widths_are_refused(network: Make, images: Tensor) -> None:
    with refused("shape", "1.weight"):
        fm.merge([network("mlp"), network("mlp", 1, hidden=7)], "hf", data=images)


def test_the_log_says_how_many_neurons_moved(network: Make, permuted: Make, images: Tensor) -> None:
    """One neuron in each place of its own, then all but those that a random order leaves."""
    model = network("mlp")
    stays = fm.merge([model, model], "hf", data=images).decisions
    assert [entry["moved"] for entry in stays] == [0.0, 0.0]
    other = permuted(model, images)
    moved = (other[1].bias != model[1].bias).double().mean()
    assert fm.merge([model, other], "hf", data=images).decisions[0]["moved"] == pytest.approx(float(moved))
