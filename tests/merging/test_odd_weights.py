"""Weights that are quantised, lazy, complex or without a dimension are merged, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging import merge
from tests.facts import refused
from tests.merging.own_networks import fused


@pytest.mark.parametrize("method", ["mean", "ties", "fisher", "kf", "greedy"])
def test_quantised_and_lazy_models_are_refused_by_name(method: str) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})
    for model, words in ((quantised, (0,)), (nn.LazyLinear(2), ("weight", "model-0", "run"))):
        with refused(*words):
            merge([model, model], method)


class Complex(nn.Module):
    def __init__(self, value: complex) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([value]))
        self.head = nn.Linear(4, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (self.head(x) * self.turn).real


def test_complex_weights_are_averaged_or_refused() -> None:
    """(1 + 2 i + 3 - 4 i) / 2 = 2 - i; arithmetic on task vectors and gradients know real weights alone."""
    nets, x = [Complex(1 + 2j), Complex(3 - 4j)], torch.rand(4, 4)
    assert merge(nets, "mean").model.turn.item() == 2 - 1j
    for method in ("ties", "task-arithmetic", "model-stock", "dare", "fisher", "kf"):
        with pytest.raises(FedMergeError, match=r"complex|cannot be followed"):
            merge(nets, method, start=Complex(0j), data=x)
    with torch.no_grad():
        nets[1].turn.fill_(complex(1, float("nan")))
    with refused("model-1", "NaN", "turn"):
        merge(nets, "mean")


class Waves(nn.Module):
    """Complex weights, and operations that can be followed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.turn = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64, generator=draws))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.to(torch.complex64) @ self.turn.T).abs())


@pytest.mark.parametrize("method", ["hf", "kf", "kf-gradient", "rebasin", "ot", "regmean"])
def test_matching_does_not_take_complex_weights_from_the_first_model(method: str) -> None:
    with refused("turn", "complex"):
        merge([Waves(0), Waves(1)], method, data=torch.rand(8, 4))


class Scaled(nn.Module):
    """A parameter of no dimension."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * self.scale


@pytest.mark.parametrize("method", ["mean", "task-arithmetic", "ties", "dare", "model-stock", "greedy"])
def test_a_parameter_of_no_dimension(method: str) -> None:
    model = fused([Scaled(1.0), Scaled(1.0)], method, start=Scaled(0.0), **_half(method))
    expected = {"task-arithmetic": 0.6, "dare": model.scale.item()}.get(method, 1.0)
    assert model.scale.item() == pytest.approx(expected)


def test_fisher_of_a_parameter_of_no_dimension() -> None:
    """Of a model with itself: that model."""
    assert fused([Scaled(2.0), Scaled(2.0)], "fisher", start=Scaled(0.0)).scale.item() == pytest.approx(2.0)


def _half(method: str) -> dict[str, float]:
    return {"drop": 0.0} if method == "dare" else {}
