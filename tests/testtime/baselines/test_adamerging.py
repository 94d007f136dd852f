from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.state import average
from fedmerge.testtime.baselines import AdaMerging
from tests.facts import refused


def test_the_gradient_by_hand(linear, pixels) -> None:
    """Encoders I and 3 I, heads I, x = (1, 0): gap g = 2 + lambda_2 - lambda_1, dH/dg = -g p (1 - p).

    At lambda = 1/2 the gradient is (2, -2) p (1 - p) with p = sigmoid(2), and Adam's first step moves each
    coefficient by the learning rate, so the batch after it has g = 2.2.
    """
    node = AdaMerging([linear(1.0, 1.0), linear(3.0, 1.0)], granularity="task-wise", learning_rate=0.1)
    x = pixels([1.0, 0.0])
    assert node.observe(x)[0][0].tolist() == pytest.approx([2.0, 0.0], rel=1e-6)
    p = 1 / (1 + math.exp(-2))
    assert node.coefficients.grad.flatten().tolist() == pytest.approx(
        [2 * p * (1 - p), -2 * p * (1 - p)], rel=1e-4
    )
    assert node.coefficients.flatten().tolist() == pytest.approx([0.4, 0.6], rel=1e-5)
    assert node.observe(x)[0][0].tolist() == pytest.approx([2.2, 0.0], rel=1e-5)


def test_layer_by_layer_as_autograd_by_hand(linear, pixels) -> None:
    """Both layers merged in plain arithmetic; the encoder's and the head's coefficients get own gradients."""
    scales = torch.tensor([[1.0, 3.0], [2.0, 0.5]])  # encoders, heads
    x = torch.tensor([[1.0, 0.2], [-0.3, 0.8]])
    by_hand = torch.full((2, 2), 0.5, requires_grad=True)
    mean = scales.mean(dim=1, keepdim=True)
    encoder, head = mean[:, 0] + (by_hand * (scales - mean)).sum(dim=1)
    log_p = (head * encoder * x).log_softmax(dim=1)
    (-(log_p.exp() * log_p).sum(dim=1).mean()).backward()
    node = AdaMerging([linear(1.0, 2.0), linear(3.0, 0.5)])
    node.observe(pixels(*x.tolist()))
    assert node.layers == ["encoder", "head"]
    torch.testing.assert_close(node.coefficients.grad, by_hand.grad)


def test_coefficients_stay_within_nought_and_one(linear, pixels) -> None:
    """A step of 10 goes to the corner (0, 1), which is the second source."""
    node = AdaMerging([linear(1.0, 1.0), linear(3.0, 1.0)], granularity="task-wise", learning_rate=10.0)
    node.observe(pixels([1.0, 0.0]))
    assert node.coefficients.flatten().tolist() == [0.0, 1.0]
    assert node.observe(pixels([1.0, 0.0]))[0][0].tolist() == pytest.approx([3.0, 0.0])


@pytest.mark.parametrize("granularity", ["layer-wise", "task-wise"])
@pytest.mark.parametrize("policy", ["mixture", "average"])
def test_it_starts_at_the_mean_and_its_corners_are_the_sources(
    models: list[nn.Module], batch: Tensor, granularity: str, policy: str
) -> None:
    node = AdaMerging(models, granularity=granularity, batch_norm=policy)
    mean = average([model.state_dict() for model in models], batch_norm=policy)
    for key, value in node.merged().items():
        torch.testing.assert_close(value.detach(), mean[key], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        node.coefficients.copy_(torch.tensor([0.0, 1.0, 0.0]))
    source = models[1].state_dict()
    for key, value in node.merged().items():
        torch.testing.assert_close(value.detach(), source[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(node.observe(batch)[0], models[1](batch), rtol=1e-4, atol=1e-4)


def test_variances_are_never_negative(models: list[nn.Module]) -> None:
    node = AdaMerging(models)
    for corner in ([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]):
        with torch.no_grad():
            node.coefficients.copy_(torch.tensor(corner))
        state = node.merged()
        assert (state["norm.running_var"] > 0).all()


def test_predicting_after_the_step_is_predicting_the_same_batch_again(
    models: list[nn.Module], batch: Tensor
) -> None:
    after = AdaMerging(models, learning_rate=0.05, predict="after")
    before = AdaMerging(models, learning_rate=0.05)
    first, second = before.observe(batch)[0], before.observe(batch)[0]
    assert torch.equal(after.observe(batch)[0], second)
    assert not torch.equal(first, second)
    assert (after.forward_passes, after.backward_passes) == (2, 1)


def test_entropy_goes_down(models: list[nn.Module], batch: Tensor) -> None:
    node = AdaMerging(models, learning_rate=0.02)
    entropies = [
        torch.distributions.Categorical(logits=node.observe(batch)[0]).entropy().mean() for _ in range(9)
    ]
    assert entropies[-1] < entropies[0]


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    for options, words in (
        ({"granularity": "tensor"}, ("tensor", "layer-wise", "task-wise")),
        ({"batch_norm": "first"}, ("first", "average", "mixture")),
        ({"learning_rate": 0.0}, ("learning_rate", 0)),
    ):
        with refused(*words):
            AdaMerging(models, **options)
