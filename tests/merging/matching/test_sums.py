from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.merging.neurons import sums
from fedmerge.models.graph import Layer, Program

CONVS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "padding": {"kernel_size": 3, "padding": 1},
    "stride and padding that differ by side": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    "dilation without bias": {"kernel_size": 3, "dilation": 2, "bias": False},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
    "depthwise stride without bias": {"kernel_size": 3, "stride": 2, "groups": 4, "bias": False},
}
X = torch.randn(7, 4, 8, 9, generator=torch.Generator().manual_seed(0))


def single(options: dict[str, Any]) -> tuple[nn.Conv2d, Layer]:
    conv = nn.Conv2d(4, 4, **options)
    (layer,) = Program(nn.Sequential(conv), X[:2]).layers
    return conv, layer


def unfolded(conv: nn.Conv2d) -> Tensor:
    """All input rows in one go: rows x d, or channels x rows x d' for a depthwise convolution."""
    patches = functional.unfold(
        X.double(),
        conv.kernel_size,
        conv.dilation,
        conv.padding,
        conv.stride,
    )
    rows = patches.transpose(1, 2).flatten(0, 1)
    if conv.groups > 1:
        rows = rows.reshape(len(rows), conv.groups, -1).transpose(0, 1)
    if conv.bias is None:
        return rows
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@pytest.mark.parametrize("chunk", [1, 8_000_000])
def test_sums_in_pieces_equal_the_unfolded_whole(
    options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the layer's own weights map the rows to its outputs, so that rows, columns and order are right."""
    monkeypatch.setattr(sums, "CHUNK", chunk)
    conv, layer = single(options)
    with torch.no_grad():
        outputs = sums.rows(conv(X), layer)
    found = sums.layer_sums(layer, conv.weight, X, outputs)
    whole = unfolded(conv)
    torch.testing.assert_close(found.gram, whole.transpose(-1, -2) @ whole)
    weight = conv.weight.detach().double().flatten(1)
    if conv.bias is not None:
        weight = torch.cat([weight, conv.bias.detach().double()[:, None]], 1)
    if layer.depthwise:
        torch.testing.assert_close(found.cross, torch.einsum("crd,rc->cd", whole, outputs))
        torch.testing.assert_close(torch.einsum("crd,cd->rc", whole, weight), outputs, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(found.cross, whole.T @ outputs)
        torch.testing.assert_close(whole @ weight.T, outputs, rtol=0, atol=1e-5)
    inner = found.gram if conv.bias is None else found.gram[..., :-1, :-1]
    torch.testing.assert_close(sums.gram_of_inputs(layer, conv.weight, X), inner)


def test_sums_of_batches_add_up() -> None:
    conv, layer = single({"kernel_size": 3})
    outputs = sums.rows(conv(X), layer).detach()
    per_image = len(outputs) // len(X)
    parts = [
        sums.layer_sums(layer, conv.weight, X[a:b], outputs[a * per_image : b * per_image])
        for a, b in ((0, 3), (3, 7))
    ]
    whole = sums.layer_sums(layer, conv.weight, X, outputs)
    torch.testing.assert_close(parts[0].gram + parts[1].gram, whole.gram)
    torch.testing.assert_close(parts[0].cross + parts[1].cross, whole.cross)


def test_rows_of_tokens_are_samples_times_positions() -> None:
    """A linear layer on 2 x 3 tokens of 4 features: six rows, in the order of the tensor."""
    linear = nn.Linear(4, 5)
    x = torch.arange(24.0).reshape(2, 3, 4)
    (layer,) = Program(nn.Sequential(linear, nn.Flatten(1)), x).layers
    assert torch.equal(sums.rows(x, layer), torch.arange(24.0).reshape(6, 4).double())
    found = sums.layer_sums(layer, linear.weight, x, sums.rows(linear(x).detach(), layer))
    whole = torch.cat([x.reshape(6, 4), torch.ones(6, 1)], 1).double()
    torch.testing.assert_close(found.gram, whole.T @ whole)
