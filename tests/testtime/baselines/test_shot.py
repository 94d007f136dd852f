from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Shot
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_the_loss_by_hand(linear, entropy_of_gap) -> None:
    """Gaps 3 and -1: one image above 0.9 (sigmoid(3) = 0.953), labelled by itself."""
    node = Shot([linear(1.0, 1.0)], pseudo_labels=0.1, confidence=0.9)
    p = [1 / (1 + math.exp(-gap)) for gap in (3, -1)]
    mean = sum(p) / 2
    sure = (entropy_of_gap(3) + entropy_of_gap(-1)) / 2
    diverse = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))
    expected = sure - diverse - 0.1 * math.log(p[0])
    loss = node.loss(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_confident_image_there_is_no_pseudo_label(linear) -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    losses = [Shot([linear(1.0, 1.0)], pseudo_labels=weight).loss(logits) for weight in (0.0, 5.0)]
    assert torch.equal(*losses)


def test_of_one_unsure_image_nothing_is_learned(linear, pixels) -> None:
    """Its entropy and that of the mean prediction cancel: the gradient is nought, up to rounding."""
    node = Shot([linear(1.0, 1.0)])
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    node.loss(logits).backward()
    assert logits.grad.abs().max() < 1e-6


def test_one_step_as_autograd_by_hand_and_the_head_frozen(models: list[nn.Module], batch: Tensor) -> None:
    """Adam's first step is lr g / (|g| + 1e-8) on every entry of the encoder, in evaluation mode."""
    node = Shot(models, learning_rate=0.01)
    mean = mean_merged(models, "mixture").requires_grad_(True)
    node.loss(mean(batch)).backward()
    torch.testing.assert_close(node.observe(batch)[0], mean(batch).detach())
    for name, parameter in node.model.named_parameters():
        old = mean.get_parameter(name)
        if name.startswith("fc."):
            assert torch.equal(parameter, old)
        else:
            step = 0.01 * old.grad / (old.grad.abs() + 1e-8)
            torch.testing.assert_close(parameter.detach(), (old - step).detach(), rtol=1e-4, atol=1e-5)
    buffers = dict(mean.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in node.model.named_buffers())


def test_a_head_named_by_hand(models: list[nn.Module], batch: Tensor) -> None:
    named, found = Shot(models, head_module="fc"), Shot(models)
    for node in (named, found):
        node.observe(batch)
    assert torch.equal(named.observe(batch)[0], found.observe(batch)[0])
    with refused("conv", "SmallNet"):
        Shot(models, head_module="conv").observe(batch)


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    for options in ({"confidence": 1.5}, {"pseudo_labels": -1.0}, {"pseudo_labels": math.nan}):
        with refused("confidence", "pseudo_labels"):
            Shot(models, **options)
