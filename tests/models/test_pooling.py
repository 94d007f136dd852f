"""The faster max pooling has PyTorch's bits: values, gradients, layout, ties, what is not a number."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedmerge.models.pooling import MaxPool2d


def bits(x: Tensor) -> bytes:
    return x.detach().contiguous().numpy().tobytes()


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 16, 33]), st.integers(3, 9), st.integers(3, 9)),
    window=st.sampled_from([(2,), (2, None, 0, 1, False, True), (3, 2, 1), (2, 1), (2, 2, 0, 2)]),
    seed=st.integers(0, 2**20),
)
def test_values_and_gradients_are_those_of_pytorch(
    shape: tuple[int, ...], window: tuple[object, ...], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # few values, so that windows have ties; signed zeros, infinities and NaN among them
    values = torch.tensor([-1.0, -0.0, 0.0, 0.5, 1.0, math.inf, -math.inf, math.nan])
    x = values[torch.randint(len(values), shape, generator=generator)]
    ours, theirs = MaxPool2d(*window), nn.MaxPool2d(*window)  # type: ignore[arg-type]
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = ours(a), theirs(b)
    assert got.stride() == expected.stride()
    weights = torch.randn(expected.shape, generator=generator)
    got.backward(weights)
    expected.backward(weights)
    assert a.grad is not None
    assert b.grad is not None
    assert bits(got) == bits(expected) == bits(ours(x))
    assert bits(a.grad) == bits(b.grad)
    assert a.grad.stride() == b.grad.stride()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_order_of_the_input_stays(order: torch.memory_format) -> None:
    x = torch.randn(2, 5, 6, 6).contiguous(memory_format=order)
    assert MaxPool2d(2)(x).stride() == nn.MaxPool2d(2)(x).stride()


def test_second_derivatives_are_those_of_pytorch() -> None:
    x = torch.randn(2, 3, 6, 6, requires_grad=True)

    def second(pool: nn.Module) -> Tensor:
        (first,) = torch.autograd.grad(pool(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), x)[0]

    assert bits(second(MaxPool2d(2))) == bits(second(nn.MaxPool2d(2)))


def test_it_can_be_transformed_traced_and_exported_as_pytorchs_own() -> None:
    x = torch.randn(2, 3, 6, 6)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), MaxPool2d(2)).eval()
    theirs = nn.Sequential(ours[0], nn.MaxPool2d(2)).eval()

    def each(model: nn.Module) -> Tensor:
        def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(model, weights, (image[None],)).square().sum()

        return vmap(grad(loss), in_dims=(None, 0))(dict(model.named_parameters()), x)["0.weight"]

    assert bits(each(ours)) == bits(each(theirs))
    operations = [
        [node.target for node in torch.export.export(model, (x,)).graph.nodes if node.op == "call_function"]
        for model in (ours, theirs)
    ]
    assert operations[0] == operations[1]
    saved = io.BytesIO()
    torch.jit.save(torch.jit.trace(ours, x), saved)
    saved.seek(0)
    assert bits(torch.jit.load(saved)(x)) == bits(ours(x))
