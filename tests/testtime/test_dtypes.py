"""Networks of float16, bfloat16 and float64 in every node: their dtype inside, wider where they meet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.flat import FlatModels
from fedmerge.models.state import average
from fedmerge.seeding import generator
from fedmerge.testtime import TESTTIME, Static, baselines
from fedmerge.testtime.guard import Guard
from tests.facts import refused
from tests.testtime.grouped import adaptive, grouped

CASES: list[tuple[str, dict[str, Any]]] = [
    *((method.name, {}) for method in TESTTIME),
    ("entropy-adaptive", grouped(statistics="batch", granularity="layer", memory=0.5, answer="together")),
    ("entropy-adaptive", grouped(head="class-wise", scale=0.5, guard=Guard(margin=0.0, patience=1))),
    ("entropy-adaptive", grouped(encoder="cross", head="cross", source_temperatures=[1.3, 0.7, 2.1])),
    ("tent", {"learning_rate": 0.1}),
    ("shot", {"learning_rate": 0.02, "predict": "after"}),
    ("adamerging", {"learning_rate": 0.3, "predict": "after"}),
    ("bn-adapt", {"source_images": 4.0}),
]
each = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value)[:60])
STREAM = [torch.randn(n, 3, 7, 7, generator=generator(n, "test")) for n in (8, 5, 1, 6)]
# of probabilities, for networks of three layers: some roundings of 2^-11 and 2^-8 one after another
SLACK = {torch.float64: 1e-9, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def made(name: str, options: dict[str, Any], models: list[nn.Module], dtype: torch.dtype) -> tuple[Any, Any]:
    """A node of networks of ``dtype``, and one of the same numbers in float64."""
    narrow = [copy.deepcopy(model).to(dtype) for model in models]
    call = TESTTIME[name].call
    return call(narrow, **options), call([copy.deepcopy(model).double() for model in narrow], **options)


@pytest.mark.parametrize("dtype", SLACK)
@each
def test_every_method_answers_as_float64_does(
    name: str, options: dict[str, Any], dtype: torch.dtype, models: list[nn.Module]
) -> None:
    """Four batches, so that what is learned counts; a step of 0.1 has moved the answers far."""
    node, exact = made(name, options, models, dtype)
    for batch in STREAM:
        logits, trace = node.observe(batch.to(dtype))
        expected, its = exact.observe(batch.to(dtype).double())
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert logits.isfinite().all()
        found, right = logits.double().softmax(dim=1), expected.softmax(dim=1)
        torch.testing.assert_close(found, right, rtol=0, atol=SLACK[dtype])
        if trace is not None:
            assert trace.encoder == pytest.approx(its.encoder, abs=10 * SLACK[dtype])


@pytest.mark.parametrize("dtype", SLACK)
@each
def test_networks_keep_their_dtype_and_take_no_other(
    name: str, options: dict[str, Any], dtype: torch.dtype, models: list[nn.Module]
) -> None:
    node, _ = made(name, options, models, dtype)
    node.observe(STREAM[0].to(dtype))
    sources = getattr(node, "sources", None)
    network = getattr(node, "networks", None) or (node.model if sources is None else sources.merged_model)
    assert {value.dtype for value in network.parameters()} == {dtype}
    with refused("take", "N", "C"):
        node.observe(STREAM[0])


@each
def test_a_half_network_with_norms_of_float32(
    name: str, options: dict[str, Any], models: list[nn.Module]
) -> None:
    mixed = [copy.deepcopy(model).half() for model in models]
    for model in mixed:
        model.norm.float()
    node, exact = (
        TESTTIME[name].call(given, **options)
        for given in (mixed, [copy.deepcopy(model).double() for model in mixed])
    )
    for batch in STREAM:
        found, right = node.observe(batch.half())[0], exact.observe(batch.half().double())[0]
        torch.testing.assert_close(
            found.double().softmax(1), right.softmax(1), rtol=0, atol=SLACK[torch.float16]
        )


def test_rows_of_two_dtypes_hold_each_source_to_the_bit(models: list[nn.Module]) -> None:
    for model in models:
        model.half().norm.float()
    flat = FlatModels(models, models[0], "fc")
    for index, model in enumerate(models):
        state = flat.source(index)
        for key, value in model.state_dict().items():
            assert state[key].dtype == value.dtype
            assert torch.equal(state[key], value)
    alpha = torch.tensor([0.2, 0.3, 0.5])
    for group in ("encoder", "head"):
        flat.merge(group, alpha)
    expected = average([model.state_dict() for model in models], alpha.tolist())
    for key, value in flat.merged.items():
        torch.testing.assert_close(value, expected[key], rtol=2**-10, atol=1e-6)
    for group in ("encoder", "head"):
        flat.put(group, 1)
    assert torch.equal(flat.merged_model(STREAM[0].half()), models[1](STREAM[0].half()))
    flat.move_from(flat.row_of(models[2].state_dict()), "head", 0.0)
    assert torch.equal(flat.merged["fc.weight"], models[2].fc.weight)
    assert list(flat.state_dict()) == ["rows", "rows1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merge_of_halves_is_rounded_once(dtype: torch.dtype) -> None:
    """Numbers from 0.5 to 1.5 and weights 1/3, 2/3: half a step of the dtype away at most, and float32's."""
    one, two = nn.Linear(64, 64).to(dtype), nn.Linear(64, 64).to(dtype)
    with torch.no_grad():
        for layer, seed in ((one, 1), (two, 2)):
            layer.weight.copy_(0.5 + torch.rand(64, 64, generator=generator(seed, "test")))
    flat = FlatModels([one, two], one, "")
    alpha = torch.tensor([1 / 3, 2 / 3])
    flat.merge("encoder", alpha)
    exact = one.weight.double() / 3 + two.weight.double() * 2 / 3
    half = 1.01 * torch.finfo(dtype).eps / 2
    torch.testing.assert_close(flat.merged["weight"].double(), exact.detach(), rtol=half, atol=0)


def test_a_variance_that_float16_cannot_hold_is_its_largest_number() -> None:
    """Means 0 and 600, variances 1: the mixture's is 1 + 90,000, float16 ends at 65,504."""
    norms = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    norms[1].running_mean.fill_(600)
    flat = FlatModels([norm.half() for norm in norms], norms[0])
    assert flat.merged["running_mean"].tolist() == [300, 300]
    assert flat.merged["running_var"].tolist() == [65504, 65504]
    wide = FlatModels([norm.float() for norm in norms], norms[0])
    assert wide.merged["running_var"].tolist() == [90001, 90001]


class Features(nn.Module):
    """Features are the pixels times ``size``; the head is linear."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.scale = nn.Linear(3, 3, bias=False)
        self.scale.weight.data = size * torch.eye(3)
        self.fc = nn.Linear(3, 2, bias=False)
        self.fc.weight.data = torch.tensor([[0.01, 0.0, 0.0], [0.0, 0.01, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.scale(x.flatten(1)).relu())


@pytest.mark.parametrize("size", [300.0, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["t3a", "lame"])
def test_features_whose_squares_float16_cannot_hold(name: str, dtype: torch.dtype, size: float) -> None:
    """Large, small and dead features (all 0, as after a ReLU): squares end at 65,504 and begin at 6e-8."""
    images = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [2.0, 0.5, 0.0], [-1.0, -1.0, -1.0]])
    batch = images[:, :, None, None].to(dtype)
    node = TESTTIME[name].call([Features(size).to(dtype)])
    exact = TESTTIME[name].call([Features(size).to(dtype).double()])
    for _ in range(2):
        found, right = node.observe(batch)[0], exact.observe(batch.double())[0]
        assert found.isfinite().all()
        torch.testing.assert_close(found.double(), right, rtol=0.02, atol=0.02 * float(right.abs().max()))


def test_small_gradients_of_float16_are_not_lost(models: list[nn.Module]) -> None:
    """Of a nearly sure prediction, below 6e-8, where float16 ends: the step is Adam's all the same."""
    for model in models:
        model.fc.weight.data *= 0.3
        model.fc.bias.data = torch.tensor([18.0, 0.0, 0.0, 0.0])
    node, exact = made("tent", {"learning_rate": 0.05}, models, torch.float16)
    for _ in range(5):
        node.observe(STREAM[0].half())
        exact.observe(STREAM[0].half().double())
    begun = baselines.Tent([copy.deepcopy(model).half() for model in models]).model.norm
    moved = (exact.model.norm.weight.detach() - begun.weight.detach().double()).abs()
    assert float(moved.max()) > 0.1
    torch.testing.assert_close(node.model.norm.weight.double(), exact.model.norm.weight, rtol=0, atol=0.05)


def test_steps_too_small_for_bfloat16_add_up(models: list[nn.Module]) -> None:
    """A scale of 1 moves by 0.001 a step, a quarter of bfloat16's: masters of float32 remember."""
    for model in models:
        model.norm.weight.data.fill_(1)
    node, exact = made("tent", {}, models, torch.bfloat16)
    for _ in range(40):
        node.observe(STREAM[0].bfloat16())
        exact.observe(STREAM[0].bfloat16().double())
    moved = float((exact.model.norm.weight.detach() - 1).abs().max())
    assert moved > 0.02
    gap = node.model.norm.weight.detach().double() - exact.model.norm.weight.detach()
    assert float(gap.abs().max()) < 0.3 * moved


def test_precision_is_of_float32_networks(models: list[nn.Module]) -> None:
    for dtype in (torch.float16, torch.float64):
        with refused("bfloat16", "float32"):
            adaptive([copy.deepcopy(model).to(dtype) for model in models], precision="bfloat16")


def test_models_of_two_dtypes_are_a_sentence(models: list[nn.Module]) -> None:
    models[1].double()
    for method in TESTTIME:
        with refused("float32", "models[0]", "torch.float64"):
            method.call(models)


def test_a_model_as_it_is_answers_in_float32(models: list[nn.Module]) -> None:
    logits, _ = Static(models[0].half()).observe(STREAM[0].half())
    assert logits.dtype == torch.float32
    assert torch.equal(logits, models[0](STREAM[0].half()).float())
