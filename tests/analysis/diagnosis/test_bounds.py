"""Bounds of outputs hold for every network, are reached by some, and grow by c to the depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_diagnosis import convolutional, perceptron, pixels
from torch import nn

from fedmerge.analysis.diagnosis import Subject
from fedmerge.analysis.diagnosis.bounds import bounds, orders

BOUNDS = ("bound", "theorem", "entry")


def deep(depth: int, seed: int, bias: bool, act: type[nn.Module] = nn.ReLU, scale: float = 1.0) -> nn.Module:
    """A perceptron of ``depth`` linear layers of 5 neurons on 4 pixels, weights drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for number in range(depth):
            layers += [nn.Linear(4 if number == 0 else 5, 5, bias=bias), act()]
        made = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for value in made.parameters():
            value.mul_(scale)
    return made.eval()


def of(*models: nn.Module, images: torch.Tensor | None = None) -> Subject:
    return Subject.of(
        {f"m{i}": model for i, model in enumerate(models)}, pixels() if images is None else images
    )


@settings(max_examples=30)
@given(
    depth=st.integers(1, 5), seed=st.integers(0, 999), bias=st.booleans(),
    act=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU]), scale=st.floats(0.1, 20),
)  # fmt: skip
def test_every_network_keeps_its_bounds(
    depth: int, seed: int, bias: bool, act: type[nn.Module], scale: float
) -> None:
    made = (deep(depth, seed + number, bias, act, scale) for number in range(2))
    frame = bounds(of(*made), factors=(0.3, 1.0, 4.0)).frame
    assert len(frame) == 3 * 3 * depth
    assert frame["held"].all()
    assert (
        frame["variance"] <= frame["variance_theorem"] * (1 + 1e-9)
    ).all()  # biases move, and do not spread
    if not bias:
        assert frame["theorem_held"].all()
        assert (frame["bound"] <= frame["theorem"] * (1 + 1e-9)).all()


def test_a_network_that_only_scales_reaches_its_bounds() -> None:
    """Layers s times the identity, on images above zero, with ReLU: outputs are s^m x."""
    scales = (2.0, 2.0, 2.0)
    model = nn.Sequential(
        nn.Flatten(), *(part for _ in scales for part in (nn.Linear(4, 4, bias=False), nn.ReLU()))
    )
    with torch.no_grad():
        for value, scale in zip(model.parameters(), scales, strict=True):
            value.copy_(scale * torch.eye(4))
    x = pixels().abs()
    frame = bounds(of(model, model, images=x)).frame
    longest, spread = (
        float(x.double().flatten(1).norm(dim=1).max()),
        x.double().flatten(1).var(0, correction=0).sum(),
    )
    for name in ("norm", *BOUNDS):
        assert frame[name].tolist() == pytest.approx([2.0**m * longest for m in (1, 2, 3)] * 3)
    for name in ("variance", "variance_bound", "variance_theorem"):
        assert frame[name].tolist() == pytest.approx([4.0**m * float(spread) for m in (1, 2, 3)] * 3)


@pytest.mark.parametrize("factor", [0.25, 2.0, 256.0])
def test_without_biases_outputs_and_bounds_grow_by_the_factor_to_the_depth(factor: float) -> None:
    frame = bounds(of(deep(4, 0, False), deep(4, 1, False)), factors=(1.0, factor)).frame
    one, other = (frame[frame["factor"] == each].reset_index(drop=True) for each in (1.0, factor))
    for name in ("norm", *BOUNDS):
        np.testing.assert_allclose(other[name], factor ** one["depth"] * one[name], rtol=1e-9)
    for name in ("variance", "variance_bound", "variance_theorem"):
        np.testing.assert_allclose(other[name], factor ** (2 * one["depth"]) * one[name], rtol=1e-9)


def test_a_bias_breaks_the_theorem_that_has_none() -> None:
    """Images that are zero: (L lambda)^m ||x|| = 0, and outputs are the biases'."""
    found = bounds(of(perceptron(0), perceptron(1), images=torch.zeros(3, 1, 2, 2)))
    assert (found.frame["theorem"] == 0).all()
    assert not found.frame["theorem_held"].any()
    assert found.frame["held"].all()
    assert math.isfinite(found.frame["bound"].max())
    assert "fails" in found.sentence


def test_the_largest_entry_bounds_nothing() -> None:
    """A matrix of ones takes four ones to four fours: norm 8 from 2, and its largest entry is 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(1)
    frame = bounds(of(model, model, images=torch.ones(2, 1, 2, 2))).frame
    assert frame["norm"].tolist() == pytest.approx([8.0] * 3)
    assert frame["entry"].tolist() == pytest.approx([2.0] * 3)
    assert frame["bound"].tolist() == pytest.approx([8.0] * 3)


def test_the_number_is_how_far_the_theorem_is_above_the_outputs() -> None:
    """A factor of 100 would give each of two layers two orders more; the one nearest to 1 is told."""
    found = bounds(of(perceptron(0, bias=False), perceptron(1, bias=False)), factors=(1.0, 100.0))
    last = found.frame[(found.frame["depth"] == 2) & (found.frame["factor"] == 1)]
    assert found.number == pytest.approx(float(np.log10(last["theorem"] / last["norm"]).mean()))
    assert found.number == pytest.approx(float(orders(last, "theorem", "norm").mean()))
    assert "fails" not in found.sentence


def test_batch_norm_is_part_of_its_layer_and_pooling_and_heads_are_followed() -> None:
    frame = bounds(of(convolutional(0), convolutional(1), images=pixels(side=6)), factors=(1.0, 10.0)).frame
    assert frame["layer"].unique().tolist() == ["0", "4"]
    assert frame["held"].all()
    with refused("above zero"):
        bounds(of(perceptron(0), perceptron(1)), factors=(0.0,))
