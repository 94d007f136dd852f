"""Every choice of the node, by hand or against a law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime import TESTTIME
from fedmerge.testtime.answers import ask_all, together
from fedmerge.testtime.probe import Probe
from tests.facts import refused
from tests.testtime.grouped import adaptive

TWO = ([1.0, 0.0], [0.0, 0.25])


def _softmax(scores: list[float], temperature: float) -> list[float]:
    weights = [math.exp(-(score - min(scores)) / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def _entropy(entropy_of_gap: Any, gap: float) -> float:
    return entropy_of_gap(gap) / math.log(2)


def test_by_image_is_the_mean_of_each_images_coefficients(linear, pixels, entropy_of_gap) -> None:
    node = adaptive([linear(1.0, 1.0), linear(3.0, 1.0)], order="image", head="shared")
    _, trace = node.observe(pixels(*TWO))
    each = [_softmax([_entropy(entropy_of_gap, size * s) for s in (1, 3)], 0.1) for size in (1, 0.25)]
    assert trace.encoder == pytest.approx([sum(pair) / 2 for pair in zip(*each, strict=True)], rel=1e-4)
    means = [sum(_entropy(entropy_of_gap, size * s) for size in (1, 0.25)) / 2 for s in (1, 3)]
    assert trace.source_entropies == pytest.approx(means, rel=1e-5)


def test_in_nats_the_temperature_is_log_c_as_large(linear, pixels) -> None:
    models, batch = [linear(1.0, 1.0), linear(3.0, 1.0)], pixels(*TWO)
    nats = adaptive(models, normalised=False, temperature=0.3 * math.log(2), head="shared")
    torch.testing.assert_close(nats(batch), adaptive(models, temperature=0.3, head="shared")(batch))
    plain = adaptive(models).observe(batch)[1].source_entropies
    assert nats.trace.source_entropies == pytest.approx([math.log(2) * score for score in plain])


def test_cross_scores_by_hand(linear, pixels, entropy_of_gap) -> None:
    """Encoders 1, 2 and heads 1, 3: gaps 1, 3 under the first encoder and 2, 6 under the second."""
    models = [linear(1.0, 1.0), linear(2.0, 3.0)]
    logits, trace = adaptive(models, encoder="cross", head="cross").observe(pixels([1.0, 0.0]))
    h = {gap: _entropy(entropy_of_gap, gap) for gap in (1, 2, 3, 6)}
    encoders, heads = [(h[1] + h[3]) / 2, (h[2] + h[6]) / 2], [(h[1] + h[2]) / 2, (h[3] + h[6]) / 2]
    alpha, beta = _softmax(encoders, 0.1), _softmax(heads, 0.1)
    assert trace.source_entropies == pytest.approx(encoders, rel=1e-4)
    assert trace.head_entropies == pytest.approx(heads, rel=1e-4)
    assert trace.encoder == pytest.approx(alpha, rel=1e-3)
    assert trace.head == pytest.approx(beta, rel=1e-3)
    assert logits[0, 0] == pytest.approx((1 + alpha[1]) * (1 + 2 * beta[1]), rel=1e-3)


def test_class_wise_heads_by_hand(linear, pixels) -> None:
    """One coefficient for each class: from scores weighted by how much of each image is of that class."""
    models = [linear(1.0, 1.0), linear(1.0, 3.0)]
    batch = pixels(*TWO)
    logits, trace = adaptive(models, head="class-wise", head_temperature=0.2).observe(batch)
    x = torch.tensor(TWO)
    said = torch.stack([x, 3 * x])
    p = torch.softmax(said, dim=-1)
    scores, q = torch.special.entr(p).sum(-1) / math.log(2), p.mean(dim=0)
    columns = [
        _softmax([float((row * q[:, c]).sum() / q[:, c].sum()) for row in scores], 0.2) for c in (0, 1)
    ]
    expected = torch.stack([columns[c][0] * said[0, :, c] + columns[c][1] * said[1, :, c] for c in (0, 1)], 1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert trace.head == pytest.approx([(columns[0][i] + columns[1][i]) / 2 for i in (0, 1)], rel=1e-4)


@pytest.mark.parametrize("of", ["coefficients", "scores"])
def test_memory_is_a_moving_average_that_a_new_stream_does_not_have(linear, pixels, of: Any) -> None:
    models = [linear(1.0, 1.0), linear(3.0, 1.0)]
    usual = {"head": "shared", "temperature": 0.2}
    node = adaptive(models, memory=0.75, memory_of=of, **usual)
    plain = adaptive(models, **usual)
    batches = [pixels([2.0, 0.0]), pixels([0.1, 0.0])]
    traces = [plain.observe(batch)[1] for batch in batches]
    first = node.observe(batches[0])[1]
    assert first.encoder == pytest.approx(traces[0].encoder)
    second = node.observe(batches[1])[1]
    if of == "coefficients":
        expected = [0.75 * a + 0.25 * b for a, b in zip(traces[0].encoder, traces[1].encoder, strict=True)]
    else:
        earlier, now = traces[0].source_entropies, traces[1].source_entropies
        expected = _softmax([0.75 * a + 0.25 * b for a, b in zip(earlier, now, strict=True)], 0.2)
    assert second.encoder == pytest.approx(expected, rel=1e-4)
    node.reset()
    assert node.observe(batches[1])[1].encoder == pytest.approx(traces[1].encoder)


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_groups_are_scored_one_after_another(
    models: list[nn.Module], batch: Tensor, granularity: Any
) -> None:
    """Two groups before the head: M passes for the sources, 2 M for the groups and one for the answer."""
    node = adaptive(models, granularity="block")
    logits, trace = node.observe(batch)
    assert len(trace.blocks) == 2
    assert trace.encoder == pytest.approx([sum(each) / 2 for each in zip(*trace.blocks, strict=True)])
    assert node.forward_passes == 3 + 2 * 3 + 1
    assert torch.equal(node(batch), logits)
    alike = adaptive(models, granularity=granularity, temperature=math.inf)
    torch.testing.assert_close(alike(batch), adaptive(models, temperature=math.inf)(batch))


def test_no_scale_is_mean_merging(models: list[nn.Module], batch: Tensor) -> None:
    """Weights go back to the mean, and with one source's statistics in all of them nothing else is left."""
    for model in models[1:]:
        model.norm.load_state_dict(models[0].norm.state_dict())
    scaled = adaptive(models, scale=0.0, batch_norm="average")
    mean = adaptive(models, temperature=math.inf, batch_norm="average")
    torch.testing.assert_close(scaled(batch), mean(batch), rtol=1e-4, atol=1e-4)


def test_statistics_of_the_batch_are_training_modes(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive([models[0]] * 2, statistics="batch")
    models[0].norm.train()
    torch.testing.assert_close(node(batch), models[0](batch), rtol=1e-4, atol=1e-4)


def test_norms_learn_from_the_stream_and_forget_it(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models, statistics="stream", prior=1.0)
    first = node(batch)
    assert not torch.allclose(node(batch), first), "the second batch knows of the first"
    node.reset()
    assert torch.equal(node(batch), first)


def test_together_is_the_merged_model_and_the_sources(models: list[nn.Module], batch: Tensor) -> None:
    node, plain = adaptive(models, answer="together"), adaptive(models)
    logits, trace = node.observe(batch)
    answers = ask_all(plain.sources, batch, torch.ones(3))
    expected = together(plain(batch), answers, torch.tensor(trace.encoder))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(8))
    with refused("batch", "out", "predicting"):
        adaptive(models, answer="together", probe=Probe(every=2))


def test_a_probe_of_images_sees_only_those(models: list[nn.Module], batch: Tensor) -> None:
    node, some = adaptive(models, probe=Probe(images=2)), adaptive(models)
    logits, trace = node.observe(batch)
    assert trace.source_entropies == pytest.approx(some.observe(batch[[2, 6]])[1].source_entropies)
    assert logits.shape == (8, 4)
    assert node.forward_passes == 3 * 2 / 8 + 1
    assert torch.equal(adaptive(models, probe=Probe(images=8))(batch), some(batch))


def test_a_probe_of_smaller_images(models: list[nn.Module], batch: Tensor) -> None:
    small = nn.functional.adaptive_avg_pool2d(batch, 5)
    node = adaptive(models, probe=Probe(size=5))
    found = node.observe(batch)[1].source_entropies
    assert found == pytest.approx(adaptive(models).observe(small)[1].source_entropies, rel=1e-5)
    assert node.forward_passes == pytest.approx(3 * 25 / 49 + 1)


def test_every_other_batch_keeps_the_coefficients(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models, probe=Probe(every=2))
    traces = [node.observe(batch * scale)[1] for scale in (1.0, 0.1, 3.0)]
    assert [trace.scored for trace in traces] == [True, False, True]
    assert traces[1].encoder == traces[0].encoder
    assert traces[1].source_entropies == traces[0].source_entropies
    assert traces[2].encoder != traces[0].encoder
    assert node.forward_passes == 4 + 1 + 4


def test_drift_scores_before_its_turn(models: list[nn.Module], batch: Tensor) -> None:
    still, moved = (adaptive(models, probe=Probe(every=99, drift=d)) for d in (1.0, 0.0))
    other = batch.flip(0) * 2 - 1
    for node in (still, moved):
        node(batch)
        node(other)
    assert [trace.scored for trace in still.history] == [True, False]
    assert [trace.scored for trace in moved.history] == [True, True]
    torch.testing.assert_close(moved(other), adaptive(models)(other))
    assert moved.forward_passes > still.forward_passes


def test_drift_does_not_remember_the_heads_twice(models: list[nn.Module], batch: Tensor) -> None:
    usual = {"memory": 0.5, "temperature": 0.3}
    drifting = adaptive(models, probe=Probe(every=99, drift=0.0), **usual)
    plain = adaptive(models, **usual)
    for scale in (1.0, 0.5, 2.0):
        torch.testing.assert_close(drifting(batch * scale), plain(batch * scale))


def test_constant_and_single_images(models: list[nn.Module], batch: Tensor) -> None:
    """All images alike, of one value, and one alone: coefficients, logits, and nothing else."""
    for given in (batch[:1].expand(8, -1, -1, -1), torch.zeros_like(batch), batch[:1]):
        for choices in ({}, {"statistics": "stream", "prior": 1.0}, {"statistics": "batch"}):
            logits, trace = adaptive(models, **choices).observe(given)
            assert logits.isfinite().all()
            assert sum(trace.encoder) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"statistic": "variance"}, ("variance", "entropy")),
        ({"order": "pixel"}, ("pixel", "batch")),
        (
            {"order": "image", "statistic": "median-entropy"},
            ("median-entropy", "consensus", "agreement", "statistic", "image"),
        ),
        ({"encoder": "merged"}, ("merged", "own", "cross")),
        ({"granularity": "pixel"}, ("pixel", "whole")),
        ({"memory": 1.0}, ("1.0", "memory")),
        ({"memory": 0.5, "memory_of": "logits"}, ("logits", "coefficients")),
        ({"memory": 0.5, "memory_of": "scores", "order": "image"}, ("remembered", "because")),
        ({"batch_norm": "best"}, ("batch-norm", "best")),
        ({"statistics": "own"}, ("batch-norm", "own")),
        ({"statistics": "stream", "prior": 0}, ("prior", 0)),
        ({"answer": "both"}, ("both", "merged", "together")),
    ],
)
def test_unfit_choices_are_sentences(
    models: list[nn.Module], given: dict[str, Any], words: tuple[object, ...]
) -> None:
    with refused(*words):
        adaptive(models, **given)


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_a_module_without_anything_to_merge_is_no_part(
    models: list[nn.Module], batch: Tensor, granularity: Any
) -> None:
    """Tables of integers and buffers that are not saved have no coefficients; they stood in the network
    itself, or in a module of their own."""
    expected = adaptive(models, granularity=granularity)(batch)
    for model in models:
        model.register_buffer("places", torch.arange(3))
        model.aside = nn.Module()
        model.aside.register_buffer("mean", torch.ones(3), persistent=False)
    assert torch.equal(adaptive(models, granularity=granularity)(batch), expected)


@pytest.mark.parametrize("method", ["entropy-adaptive", "entropy-weighted", "t3a", "contrast", "adamerging"])
def test_one_network_is_not_taken_for_its_layers(models: list[nn.Module], batch: Tensor, method: str) -> None:
    """A Sequential is a sequence of modules, too; a ModuleList and a generator are lists."""
    node = TESTTIME[method].call
    for one in (models[0], nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))):
        with refused(type(one).__name__, "list"):
            node(one)
    expected = node(models)(batch)
    for several in (nn.ModuleList(models), iter(models)):
        assert torch.equal(node(several)(batch), expected)


def test_a_probe_has_a_whole_number_of_images() -> None:
    for name in ("images", "size", "every"):
        with refused(name, 1.5, "integer"):
            Probe(**{name: 1.5})  # type: ignore[arg-type]
