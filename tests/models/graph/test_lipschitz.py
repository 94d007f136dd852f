"""The stretch of each layer of a chain is at least that of its own matrix, and no more than can be said."""

from __future__ import annotations

import math

import pytest
import torch
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmerge.models.entries import entries
from fedmerge.models.graph import follow
from fedmerge.models.graph.lipschitz import affine, chain


def matrix(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of an affine network: its Jacobian anywhere."""
    found = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], torch.zeros(shape).double())
    assert isinstance(found, Tensor)
    return found.reshape(-1, math.prod(shape))


def normal(model: nn.Module, seed: int) -> nn.Module:
    """The network with all entries drawn anew; variances stay above zero."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draws))
                if key.endswith("running_var"):
                    value.abs_().add_(0.1)
    return model.double().eval()


@settings(max_examples=25)
@given(
    kernel=st.integers(1, 3), stride=st.integers(1, 2), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), norm=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_convolution_stretches_no_more_than_is_said(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, norm: bool, seed: int
) -> None:
    """Between its matrix's largest singular value and the sum of its taps' own (the triangle)."""
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups)
    model = normal(nn.Sequential(conv, nn.BatchNorm2d(4)) if norm else nn.Sequential(conv), seed)
    program = follow(model, torch.zeros(2, 2, 5, 6).double())
    (piece,) = chain(program)
    found = affine(piece.layer, entries(model))
    whole = matrix(model, (2, 5, 6))
    own = float(torch.linalg.matrix_norm(whole, 2))
    assert own <= found.gain * (1 + 1e-9)
    at_zero = model(torch.zeros(1, 2, 5, 6).double())
    if not norm:
        taps = conv.weight.detach().unflatten(0, (groups, -1)).flatten(3)  # groups x outputs x inputs x taps
        most = torch.linalg.matrix_norm(taps.movedim(3, 0), 2).amax(1).sum()
        assert found.gain <= float(most) * (1 + 1e-9)
    if kernel == 1 and stride == 1:
        assert found.gain == pytest.approx(own)
    if not padding:
        assert found.offset == pytest.approx(float(at_zero.norm().detach()))


POOLS = {
    "mean of 4": (nn.AdaptiveAvgPool2d(1), 1 / 6),
    "2 x 2 of 6 x 6": (nn.AdaptiveAvgPool2d(2), 1 / 3),
    "4 x 4 of 6 x 6": (nn.AdaptiveAvgPool2d(4), 2.0),
    "average": (nn.AvgPool2d(2), 1 / 2),
    "average that overlaps": (nn.AvgPool2d(3, stride=2), 2 / 3),
    "average with a border": (nn.AvgPool2d(2, padding=1), 1.0),
    "largest": (nn.MaxPool2d(2), 1.0),
    "largest that overlaps": (nn.MaxPool2d(3, stride=2), 2.0),
    "largest, dilated": (nn.MaxPool2d(2, stride=2, dilation=2), 2.0),
    "leaky": (nn.LeakyReLU(-1.5), 1.5),
    "elu": (nn.ELU(1.25), 1.25),
    "gelu": (nn.GELU(), 1.13),
    "silu": (nn.SiLU(), 1.0999),
    "clipped": (nn.Hardtanh(-1, 2), 1.0),
}
"""By name: what follows a layer of 6 x 6 places, and by how much it stretches at most."""


@pytest.mark.parametrize("name", POOLS)
def test_what_follows_a_layer_stretches_no_more_than_is_said(name: str) -> None:
    after, most = POOLS[name]
    (piece,) = chain(follow(nn.Sequential(nn.Conv2d(1, 1, 1), after), torch.zeros(2, 1, 6, 6)))
    assert piece.lipschitz == pytest.approx(most)
    draws = torch.Generator().manual_seed(0)
    first, second = (2 * torch.randn(2000, 1, 6, 6, generator=draws).double() for _ in range(2))
    second = torch.cat([second[:1000], first[1000:] + 1e-3 * second[1000:]])
    ratios = (after(first) - after(second)).flatten(1).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
    assert float(ratios.max()) <= most * (1 + 1e-9)


def test_a_constant_image_reaches_the_bound_of_a_mean() -> None:
    """36 numbers c have norm 6 |c|, and their mean has |c|."""
    pool, most = POOLS["mean of 4"]
    x = torch.full((1, 1, 6, 6), 0.7)
    assert float(pool(x).norm() / x.norm()) == pytest.approx(most)


class Residual(nn.Module):
    """A layer beside which the input passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.first(x).relu())


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Residual(), "add"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)), "sigmoid"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)), "layer_norm"),
        (nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(1, 2)), "hardtanh"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)), "batch_norm"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(model: nn.Module, named: str) -> None:
    with refused(named):
        chain(follow(model.eval(), torch.zeros(2, 4)))
