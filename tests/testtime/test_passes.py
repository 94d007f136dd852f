"""Passes must be the plain ones, however they are made; what a GPU does is tested where there is one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import generator
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.passes import Passes
from fedmerge.testtime.probe import Probe
from tests.facts import refused
from tests.testtime.grouped import adaptive

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STREAM = [torch.randn(n, 3, 7, 7, generator=generator(n, "test")) for n in (8, 8, 8, 5, 8, 5, 5, 1)]
CHOICES: list[dict[str, Any]] = [
    {},
    {"head": "cross", "encoder": "cross"},
    {"statistics": "stream", "prior": 2.0, "guard": Guard(reference="ensemble", coefficient=0.2, patience=1)},
    {"statistics": "stream", "prior": 2.0, "probe": Probe(images=3, every=2, drift=0.1)},
    {"statistics": "batch", "granularity": "layer"},
    {"answer": "together", "head": "class-wise"},
]


def test_on_the_cpu_work_is_done_plainly() -> None:
    passes = Passes()
    for _ in range(3):
        assert passes("double", lambda x: (2 * x,), torch.ones(2))[0].tolist() == [2, 2]
    assert not passes.recorded


def test_bfloat16_is_of_the_arithmetic_inside_alone(models: list[nn.Module], batch: Tensor) -> None:
    """A product of bfloat16 has 8 bits: relative errors of about 2^-8, and not none."""
    x, weight = torch.randn(8, 5, generator=generator(0, "a")), torch.randn(3, 5, generator=generator(0, "b"))
    exact = torch.nn.functional.linear(x, weight)
    (half,) = Passes(precision="bfloat16")("linear", lambda x: (torch.nn.functional.linear(x, weight),), x)
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).abs().max() / exact.abs().max()) < 2**-5
    plain, node = adaptive(models), adaptive(models, precision="bfloat16")
    torch.testing.assert_close(node(batch).softmax(-1), plain(batch).softmax(-1), rtol=0.1, atol=0.05)
    with refused("half", "float32"):
        adaptive(models, precision="half")  # type: ignore[arg-type]


def test_a_copy_begins_without_recordings(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models, precision="bfloat16")
    node(batch)
    other = copy.deepcopy(node)
    assert other.merged.passes is not node.merged.passes
    assert other.merged.passes.precision == "bfloat16"
    node.reset()
    torch.testing.assert_close(other(batch), node(batch))


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_graphs_change_no_bit(models: list[nn.Module], choices: dict[str, Any], precision: Any) -> None:
    """Over two streams with batches of three sizes, each met more than once."""
    plain, node = (
        adaptive(models, graphs=graphs, precision=precision, **choices).cuda() for graphs in (False, True)
    )
    for _ in range(2):
        for batch in STREAM:
            assert torch.equal(node(batch.cuda()), plain(batch.cuda()))
            assert node.trace == plain.trace
        node.reset()
        plain.reset()
    assert node.merged.passes.recorded
    assert not node.merged.passes.refused
    assert not plain.merged.passes.recorded


@needs_gpu
def test_the_gpu_says_what_the_cpu_says(models: list[nn.Module]) -> None:
    for choices in CHOICES:
        here, there = adaptive(models, **choices), adaptive(models, **choices).cuda()
        for batch in STREAM:
            torch.testing.assert_close(there(batch.cuda()).cpu(), here(batch), rtol=1e-2, atol=1e-2)


@needs_gpu
def test_a_node_that_moves_forgets_its_recordings(models: list[nn.Module]) -> None:
    batch = STREAM[0]
    node = adaptive(models, statistics="stream").cuda()
    for _ in range(3):
        node(batch.cuda())
    assert node.merged.passes.recorded
    expected = node(batch.cuda())
    node.cpu()
    assert not node.merged.passes.recorded
    assert node(batch).shape == expected.shape


@needs_gpu
def test_work_that_waits_for_the_device_is_done_plainly() -> None:
    def work(x: Tensor) -> tuple[Tensor]:
        return (x * float(x.sum()),)  # the host must know the sum, so a recording fails

    passes, x = Passes(), torch.ones(2, device="cuda")
    for _ in range(3):
        assert passes("asks", work, x)[0].tolist() == [2, 2]
    assert "asks" in passes.refused
    assert (torch.ones(2, device="cuda") + 1).tolist() == [2, 2]
