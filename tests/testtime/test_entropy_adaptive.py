"""Entropy-adaptive merging: its limits, its symmetries, and what it does not change."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fedmerge.models.state import average
from fedmerge.seeding import seeded
from fedmerge.testtime import Node
from tests.facts import refused
from tests.testtime.grouped import adaptive


@pytest.mark.parametrize("policy", ["mixture", "average"])
@pytest.mark.parametrize("head", ["merged-features", "shared"])
def test_an_infinite_temperature_is_mean_merging(
    models: list[nn.Module], batch: Tensor, policy: str, head: str
) -> None:
    node = adaptive(models, temperature=math.inf, head=head, batch_norm=policy)
    logits = node(batch)
    mean = average([model.state_dict() for model in models], batch_norm=policy)
    for key, value in node.sources.merged.items():
        torch.testing.assert_close(value, mean[key], rtol=1e-6, atol=1e-6)
    models[0].load_state_dict(mean)
    torch.testing.assert_close(logits, models[0](batch))


def test_a_temperature_near_nought_is_the_surest_model_alone(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models, temperature=1e-9, head="shared")
    logits, trace = node.observe(batch)
    surest = trace.source_entropies.index(min(trace.source_entropies))
    assert trace.encoder[surest] == 1
    torch.testing.assert_close(logits, models[surest](batch))


def test_identical_sources_share_equally_and_keep_their_function(
    models: list[nn.Module], batch: Tensor
) -> None:
    logits, trace = adaptive([models[0]] * 4).observe(batch)
    assert trace.encoder == trace.head == (0.25,) * 4
    torch.testing.assert_close(logits, models[0](batch))


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_torchvision_models_of_two_kinds_of_head(name: str) -> None:
    """A convolution with pooling, and a linear layer after others; twins must give their own function."""
    with seeded(0, "test"):
        model = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
        x = torch.rand(2, 3, 48, 48)
    node = adaptive([model, copy.deepcopy(model)])
    torch.testing.assert_close(node(x), model(x), rtol=1e-4, atol=1e-5)


def test_coefficients_sum_to_one(models: list[nn.Module], batch: Tensor) -> None:
    _, trace = adaptive(models).observe(batch)
    assert sum(trace.encoder) == pytest.approx(1, abs=1e-6)
    assert sum(trace.head) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_permuting_sources_permutes_coefficients(
    models: list[nn.Module], batch: Tensor, order: tuple[int, ...]
) -> None:
    logits, trace = adaptive(models).observe(batch)
    permuted_logits, permuted = adaptive([models[i] for i in order]).observe(batch)
    assert permuted.encoder == pytest.approx([trace.encoder[i] for i in order], abs=1e-6)
    assert permuted.head == pytest.approx([trace.head[i] for i in order], abs=1e-4)
    torch.testing.assert_close(permuted_logits, logits, rtol=1e-4, atol=1e-4)


def test_the_order_of_images_does_not_matter(models: list[nn.Module], batch: Tensor) -> None:
    logits, trace = adaptive(models).observe(batch)
    flipped_logits, flipped = adaptive(models).observe(batch.flip(0))
    assert flipped.encoder == pytest.approx(trace.encoder, abs=1e-6)
    torch.testing.assert_close(flipped_logits.flip(0), logits, rtol=1e-4, atol=1e-4)


def test_nothing_is_carried_from_batch_to_batch(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models)
    first = node(batch)
    node(batch * 3 + 1)
    assert torch.equal(node(batch), first)


def test_a_source_of_constant_logits_gets_the_least(models: list[nn.Module], batch: Tensor) -> None:
    nn.init.zeros_(models[1].fc.weight)
    nn.init.zeros_(models[1].fc.bias)
    _, trace = adaptive(models).observe(batch)
    assert trace.source_entropies[1] == pytest.approx(1)
    assert min(trace.encoder) == trace.encoder[1]
    assert min(trace.head) == trace.head[1]


def test_a_batch_of_one(models: list[nn.Module], batch: Tensor) -> None:
    logits, trace = adaptive(models).observe(batch[:1])
    assert logits.shape == (1, 4)
    assert trace.batch_size == 1
    assert logits.isfinite().all()


def test_one_model_is_that_model(models: list[nn.Module], batch: Tensor) -> None:
    torch.testing.assert_close(adaptive(models[:1])(batch), models[0](batch))


def test_trace_history_and_reset(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models)
    assert isinstance(node, Node)
    assert node.trace is None
    traces = [node.observe(batch[:n])[1] for n in (8, 3)]
    assert node.trace == traces[1]
    assert node.history == traces
    assert [trace.batch_size for trace in traces] == [8, 3]
    node.reset()
    assert (node.trace, node.history, node.forward_passes) == (None, [], 0)
    assert node.observe(batch)[1] == traces[0]


def test_models_are_neither_changed_nor_followed(models: list[nn.Module], batch: Tensor) -> None:
    models[0].train()
    states = [copy.deepcopy(model.state_dict()) for model in models]
    node = adaptive(models)
    first = node(batch)
    assert models[0].training
    assert not first.requires_grad
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        nn.init.zeros_(model.fc.weight)
    assert torch.equal(node(batch), first)


def test_it_stays_in_evaluation_mode(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models)
    first = node(batch)
    assert torch.equal(node.train()(batch), first)


def test_a_head_named_by_hand_is_checked(models: list[nn.Module], batch: Tensor) -> None:
    assert torch.equal(adaptive(models, head_module="fc")(batch), adaptive(models)(batch))
    with refused("conv", "SmallNet"):
        adaptive(models, head_module="conv")(batch)


def test_a_source_that_is_not_finite_is_left_out_and_named(models: list[nn.Module], batch: Tensor) -> None:
    """Broken, the third has no say and no weight; mended, everything is as it was."""
    node, others = adaptive(models), adaptive(models[:2])
    first, without = node(batch), others(batch)
    bias = node.sources.source(2)["fc.bias"]
    healthy = bias.clone()
    for value in (torch.nan, torch.inf, -torch.inf):
        bias[1] = value
        logits, trace = node.observe(batch)
        torch.testing.assert_close(logits, without)
        assert trace.left_out == (2,)
        assert (trace.encoder[2], trace.head[2]) == (0, 0)
        assert trace.encoder[:2] == pytest.approx(others.trace.encoder)
        assert math.isnan(trace.source_entropies[2])
    bias.copy_(healthy)
    assert torch.equal(node(batch), first)
    assert node.trace.left_out == ()


def test_no_source_left_is_a_sentence_and_does_no_lasting_harm(
    models: list[nn.Module], batch: Tensor
) -> None:
    node = adaptive(models)
    first = node(batch)
    with refused("normalisation", "gives", "logits", "finite", "source"):
        node(batch * torch.nan)
    assert torch.equal(node(batch), first)
    assert len(node.history) == 2


def test_unfit_batches_are_sentences(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models)
    for unfit, words in (
        (batch[:0], ("N", 1, 0, 3, 7, "least")),
        (batch[0], ("N", "C", "H", "W")),
        ((batch * 255).to(torch.uint8), ("floating-point", "uint8")),
        (batch[:, :1], (8, 1, 7, "channels")),
        (batch.double(), ("float64", "N", "C")),
    ):
        with refused(*words):
            node(unfit)


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    with refused("least", "entropy-adaptive", "model"):
        adaptive([])
    with refused("fc.weight", "(4, 6)", "(9, 6)"):
        adaptive([models[0], type(models[0])(classes=9)])
    for temperature in (0.0, -1.0, math.nan):
        with refused("temperature"):
            adaptive(models, temperature=temperature)
        with refused("head_temperature"):
            adaptive(models, head_temperature=temperature)
    with refused("both", "merged-features", "shared"):
        adaptive(models, head="both")
