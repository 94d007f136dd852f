from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.merging.matching.affine import as_columns, effective, fitted, from_columns
from fedmerge.merging.neurons import sums
from fedmerge.models.graph import Layer, Program

X = torch.randn(9, 4, 6, 6, generator=torch.Generator().manual_seed(0))
CASES = [
    (bias, norm, affine, groups)
    for bias in (False, True)
    for norm, affine in ((False, False), (True, False), (True, True))
    for groups in (1, 4)
]
IDS = [
    f"{'bias' if bias else 'no bias'}, {('norm' if affine else 'norm without affine') if norm else 'no norm'}"
    f"{', depthwise' if groups > 1 else ''}"
    for bias, norm, affine, groups in CASES
]


def block(bias: bool, norm: bool, affine: bool, groups: int, seed: int = 1) -> tuple[nn.Sequential, Layer]:
    rng = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = [nn.Conv2d(4, 4, 3, bias=bias, groups=groups)]
    if norm:
        parts.append(nn.BatchNorm2d(4, affine=affine))
    net = nn.Sequential(*parts).eval()
    net.load_state_dict(
        {
            key: torch.rand(value.shape, generator=rng) + 0.2 if value.is_floating_point() else value
            for key, value in net.state_dict().items()
        }
    )
    (layer,) = Program(net, X[:2]).layers
    return net, layer


def columns_of(net: nn.Module, layer: Layer) -> Tensor:
    columns = as_columns(*effective(net.state_dict(), layer))
    return columns.T if layer.depthwise else columns


@pytest.mark.parametrize(("bias", "norm", "affine", "groups"), CASES, ids=IDS)
def test_effective_is_the_layer_with_its_norm_as_one(
    bias: bool, norm: bool, affine: bool, groups: int
) -> None:
    net, layer = block(bias, norm, affine, groups)
    weight, offset = effective(net.state_dict(), layer)
    assert (offset is None) == (not bias and not norm)
    found = nn.functional.conv2d(X.double(), weight, offset, groups=groups)
    torch.testing.assert_close(found, net(X).detach().double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bias", "norm", "affine", "groups"), CASES, ids=IDS)
def test_what_is_written_computes_the_columns(bias: bool, norm: bool, affine: bool, groups: int) -> None:
    """The function of one block written into another that has other weights and other statistics."""
    net, layer = block(bias, norm, affine, groups)
    other, place = block(bias, norm, affine, groups, seed=2)
    rows = sums.rows(net(X).detach(), layer)
    gram = sums.layer_sums(layer, net[0].weight, X, rows).gram
    other.load_state_dict(
        other.state_dict() | fitted(other.state_dict(), place, columns_of(net, layer), gram)
    )
    torch.testing.assert_close(other(X), net(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_statistics_that_are_written_are_those_of_the_rows(bias: bool, groups: int) -> None:
    """One pass in training mode with a momentum of one sets the statistics to what they are."""
    net, layer = block(bias, True, True, groups)
    gram = sums.layer_sums(layer, net[0].weight, X, sums.rows(net(X).detach(), layer)).gram
    net.load_state_dict(net.state_dict() | fitted(net.state_dict(), layer, columns_of(net, layer), gram))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert isinstance(net[1], nn.BatchNorm2d)
    net[1].momentum = 1.0
    net.train()(X)
    for key in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(net.state_dict()[key], before[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [None, torch.tensor([7.0, 8.0])])
def test_columns_are_rows_of_the_weight_and_end_with_the_offset(offset: Tensor | None) -> None:
    weight = torch.arange(12.0).reshape(2, 3, 2, 1)
    columns = as_columns(weight, offset)
    assert columns[:6, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert columns[6:].tolist() == ([] if offset is None else [[7.0, 8.0]])
    back, found = from_columns(columns, weight.shape, offset is not None)
    assert torch.equal(back, weight)
    assert (found is None) if offset is None else torch.equal(found, offset)
