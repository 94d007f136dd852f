"""What a node remembers where a source fails, and where a batch is looked at twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fedmerge.seeding import generator
from fedmerge.testtime.probe import Probe
from tests.testtime.grouped import adaptive

STREAM = [(1 + n) * torch.randn(8, 3, 7, 7, generator=generator(n, "test")) for n in range(5)]
BETA, TEMPERATURE = 0.75, 0.3


def _softmin(scores: list[float]) -> list[float]:
    weights = [math.exp(-(score - min(scores)) / TEMPERATURE) for score in scores]
    return [weight / sum(weights) for weight in weights]


def _averaged(earlier: list[float], now: list[float]) -> list[float]:
    return [BETA * a + (1 - BETA) * b for a, b in zip(earlier, now, strict=True)]


@pytest.mark.parametrize("of", ["coefficients", "scores"])
def test_a_source_that_fails_on_the_first_batch_is_remembered_from_the_second(
    models: list[nn.Module], of: Any
) -> None:
    """By hand from the scores: the third source has no earlier value on batch 2, and one on batch 3."""
    usual: dict[str, Any] = {"head": "shared", "temperature": TEMPERATURE}
    node = adaptive(models, memory=BETA, memory_of=of, **usual)
    plain = adaptive(models, **usual)
    scores = [list(plain.observe(batch)[1].source_entropies) for batch in STREAM[:3]]
    bias = node.sources.source(2)["fc.bias"]
    healthy = bias.clone()
    bias[1] = math.nan
    assert node.observe(STREAM[0])[1].left_out == (2,)
    bias.copy_(healthy)
    found = [node.observe(batch)[1].encoder for batch in STREAM[1:3]]
    if of == "scores":
        kept = [*_averaged(scores[0][:2], scores[1][:2]), scores[1][2]]
        expected = [_softmin(kept), _softmin(_averaged(kept, scores[2]))]
    else:
        now = [_softmin(scores[0][:2]), *map(_softmin, scores[1:])]
        kept = [*_averaged(now[0], now[1][:2]), now[1][2]]
        expected = [[a / sum(kept) for a in kept]]
        kept = _averaged(kept, now[2])
        expected.append([a / sum(kept) for a in kept])
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("of", ["coefficients", "scores"])
@pytest.mark.parametrize("norms", ["sources", "stream"])
def test_a_probe_that_asks_again_remembers_the_batch_once(
    models: list[nn.Module], of: Any, norms: Any
) -> None:
    """At a drift of 0 each batch in between is asked again, so all is as if every batch had been."""
    usual: dict[str, Any] = {"memory": BETA, "memory_of": of, "statistics": norms, "temperature": TEMPERATURE}
    node = adaptive(models, probe=Probe(every=100, drift=0.0), **usual)
    plain = adaptive(models, **usual)
    for batch in STREAM:
        (logits, trace), (expected, its) = node.observe(batch), plain.observe(batch)
        assert trace.scored
        assert trace.head == pytest.approx(its.head, rel=1e-6)
        assert trace.encoder == pytest.approx(its.encoder, rel=1e-6)
        torch.testing.assert_close(logits, expected)


def test_batches_that_are_not_asked_about_do_count_for_the_head(models: list[nn.Module]) -> None:
    """The head is weighed on every batch, by hand from its entropies; the encoder only when asked."""
    node = adaptive(models, memory=BETA, temperature=TEMPERATURE, probe=Probe(every=3))
    traces = [node.observe(batch)[1] for batch in STREAM[:3]]
    assert [trace.scored for trace in traces] == [True, False, False]
    assert traces[0].encoder == traces[1].encoder == traces[2].encoder
    kept = _softmin(list(traces[0].head_entropies))
    for trace in traces[1:]:
        kept = _averaged(kept, _softmin(list(trace.head_entropies)))
        assert trace.head == pytest.approx([value / sum(kept) for value in kept], rel=1e-4)
