from __future__ import annotations

import torch
from torch import nn

from fedmerge.merging import FUSION
from fedmerge.merging.fisher import fisher_diagonal
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.parents import Parents
from tests.facts import refused

IMAGES = torch.randn(6, 1, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear(seed: int, scale: float = 1.0) -> nn.Module:
    draws = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 4)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
    return net.eval()


def fuse(models: list[nn.Module], seed: int = 0, **options: object) -> Merged:
    context = Context(data=IMAGES, seed=seed)
    return FUSION["fisher"].call(Parents.of(models), context, **FUSION["fisher"].check(options))


def by_hand(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """For z = W x + b: d log p_y / d W_kj = ([k = y] - p_k) x_j, so E_y of its square is
    x_j^2 (p_k (1 - p_k)^2 + (1 - p_k) p_k^2) = x_j^2 p_k (1 - p_k); the bias has x_j = 1."""
    weight, bias = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for image in IMAGES:
        x = image.flatten()
        p = (net[1].weight @ x + net[1].bias).softmax(0).detach()
        for k in range(4):
            bias[k] += p[k] * (1 - p[k]) / len(IMAGES)
            for j in range(3):
                weight[k, j] += x[j] ** 2 * p[k] * (1 - p[k]) / len(IMAGES)
    return weight, bias


def test_the_diagonal_for_a_linear_softmax_model() -> None:
    net = linear(1)
    weight, bias = by_hand(net)
    found = fisher_diagonal(net, IMAGES)
    torch.testing.assert_close(found["1.weight"], weight)
    torch.testing.assert_close(found["1.bias"], bias)


def test_sampled_labels_have_the_exact_diagonal_as_their_mean() -> None:
    """One image 8,000 times: every estimate is ([k = y] - p_k)^2, within [0, 1], so the standard error of
    the mean is at most 0.5 / sqrt(8000) = 0.0056; five of them are 0.028."""
    net = linear(2)
    image = IMAGES[:1]
    many = fisher_diagonal(net, image.expand(8000, -1, -1, -1), "sampled", torch.Generator().manual_seed(0))
    torch.testing.assert_close(many["1.bias"], fisher_diagonal(net, image)["1.bias"], rtol=0, atol=0.028)


def test_the_merge_weighs_each_entry() -> None:
    """sum_m a_m F_m theta_m / sum_m a_m F_m with the explicit loop's F, weights 1 and 3."""
    nets = [linear(1), linear(2)]
    (first, first_bias), (second, second_bias) = by_hand(nets[0]), by_hand(nets[1])
    merged = fuse(nets, weights=[1.0, 3.0], floor=1e-30)
    expected = (first * nets[0][1].weight + 3 * second * nets[1][1].weight) / (first + 3 * second)
    torch.testing.assert_close(merged.model[1].weight.detach(), expected.detach())
    expected = (first_bias * nets[0][1].bias + 3 * second_bias * nets[1][1].bias) / (
        first_bias + 3 * second_bias
    )
    torch.testing.assert_close(merged.model[1].bias.detach(), expected.detach())
    assert merged.coefficients == {"model-0": 0.25, "model-1": 0.75}


def test_under_a_high_floor_it_is_the_mean() -> None:
    """Every F of a softmax model on these images is below 1e6, and counts as 1e6."""
    nets = [linear(1), linear(2)]
    merged = fuse(nets, floor=1e6)
    torch.testing.assert_close(merged.model[1].weight, (nets[0][1].weight + nets[1][1].weight) / 2)


def test_sampling_follows_the_seed() -> None:
    nets = [linear(1), linear(2)]
    weights = [fuse(nets, seed, expectation="sampled").model[1].weight for seed in (0, 0, 1)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_faults_are_sentences() -> None:
    with refused("data=", "fisher"):
        FUSION["fisher"].call(Parents.of([linear(1)]), Context())
    with refused("negative", "fisher"):
        fuse([linear(1), linear(2)], weights=[2.0, -1.0])
