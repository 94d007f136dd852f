"""Entropy-adaptive merging on networks that are calculated by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.facts import refused
from tests.testtime.grouped import adaptive


class Linear2(nn.Module):
    """A net to calculate by hand: logits = head (encoder x), two matrices, for images of P pixels."""

    passes = 0

    def __init__(self, encoder: list[list[float]], head: list[list[float]]) -> None:
        super().__init__()
        self.encoder = nn.Linear(len(encoder[0]), len(encoder), bias=False)
        self.head = nn.Linear(len(head[0]), len(head), bias=False)
        self.encoder.weight.data = torch.tensor(encoder)
        self.head.weight.data = torch.tensor(head)

    def forward(self, x: Tensor) -> Tensor:
        Linear2.passes += 1
        return self.head(self.encoder(x.flatten(1)))


def diagonal(value: float) -> list[list[float]]:
    return [[value, 0.0], [0.0, value]]


def pixels(*images: list[float]) -> Tensor:
    return torch.tensor(images)[:, :, None, None]


def binary_entropy(gap: float) -> float:
    """Entropy of two classes whose logits differ by ``gap``, divided by log 2."""
    p = 1 / (1 + math.exp(-gap))
    return -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)


def test_the_source_of_the_target_domain_gets_the_most() -> None:
    """Sources read pixel 0 or pixel 1; each domain varies in its own pixel, so only its model is sure."""
    reads = [Linear2([[1.0, 0.0]], [[6.0], [-6.0]]), Linear2([[0.0, 1.0]], [[6.0], [-6.0]])]
    node = adaptive(reads)
    for domain, target in enumerate((pixels([1.0, 0.0], [-1.0, 0.0]), pixels([0.0, 1.0], [0.0, -1.0]))):
        logits, trace = node.observe(target)
        assert trace.encoder[domain] > 0.99
        assert logits.argmax(dim=1).tolist() == [0, 1]


def test_a_source_both_sure_and_wrong_wins_the_documented_failure() -> None:
    """Both are right or wrong on every image; the wrong one is louder, so the merge is wrong everywhere."""
    right, wrong = Linear2(diagonal(1.0), diagonal(1.0)), Linear2(diagonal(1.0), diagonal(-20.0))
    logits, trace = adaptive([right, wrong]).observe(pixels([1.0, 0.0], [0.0, 1.0]))
    assert max(trace.encoder) == trace.encoder[1]
    assert logits.argmax(dim=1).tolist() == [1, 0]


def test_two_sources_by_hand_where_head_and_encoder_disagree() -> None:
    """Encoders 4 I and I, heads I and 4 I: both models give 4 x, so alpha = (1/2, 1/2), encoder 2.5 I.

    On the merged features 2.5 x the heads give 2.5 x and 10 x, so with x = (1, 0) and h the entropy of a
    gap, beta = softmax(-(h(2.5), h(10)) / T), and the logits are (beta_1 + 4 beta_2) 2.5 x.
    """
    models = [Linear2(diagonal(4.0), diagonal(1.0)), Linear2(diagonal(1.0), diagonal(4.0))]
    logits, trace = adaptive(models, temperature=7.0, head_temperature=0.5).observe(pixels([1.0, 0.0]))
    beta = 1 / (1 + math.exp(-(binary_entropy(2.5) - binary_entropy(10)) / 0.5))
    assert trace.encoder == pytest.approx((0.5, 0.5))
    assert trace.source_entropies == pytest.approx([binary_entropy(4)] * 2, rel=1e-5)
    assert trace.head_entropies == pytest.approx((binary_entropy(2.5), binary_entropy(10)), rel=1e-4)
    assert trace.head == pytest.approx((1 - beta, beta), rel=1e-5)
    assert logits[0].tolist() == pytest.approx([2.5 * (1 - beta + 4 * beta), 0], rel=1e-5)


def test_encoder_coefficients_by_hand_and_shared_with_the_head() -> None:
    """Logit gaps 1 and 3, T = 0.2: alpha = softmax(-(h(1), h(3)) / T); shared, the head is weighted alike."""
    models = [Linear2(diagonal(1.0), diagonal(1.0)), Linear2(diagonal(3.0), diagonal(1.0))]
    node = adaptive(models, temperature=0.2, head="shared")
    logits, trace = node.observe(pixels([1.0, 0.0]))
    alpha = 1 / (1 + math.exp(-(binary_entropy(1) - binary_entropy(3)) / 0.2))
    assert trace.encoder == pytest.approx((1 - alpha, alpha), rel=1e-5)
    assert trace.head == trace.encoder
    assert trace.head_entropies is None
    assert logits[0].tolist() == pytest.approx([1 + 2 * alpha, 0], rel=1e-5)


def test_forward_passes_are_counted_as_they_are() -> None:
    """After the first batch, which also finds the head, M sources cost M + 1 calls of a network."""
    node = adaptive([Linear2(diagonal(1.0), diagonal(v)) for v in (1.0, 2.0, 3.0)])
    node(pixels([1.0, 0.0]))
    before = Linear2.passes, node.forward_passes
    node(pixels([1.0, 0.0]))
    assert Linear2.passes - before[0] == 4
    assert node.forward_passes - before[1] == 4


def test_calibration_by_hand_takes_confidence_away_and_nothing_else() -> None:
    """Gaps 1 and 4; divided by 1 and 4 both are 1, so both weigh a half and the merge is 2.5 x itself."""
    models = [Linear2(diagonal(1.0), diagonal(1.0)), Linear2(diagonal(4.0), diagonal(1.0))]
    node = adaptive(models, head="shared", source_temperatures=[1.0, 4.0])
    logits, trace = node.observe(pixels([1.0, 0.0]))
    assert trace.encoder == pytest.approx((0.5, 0.5))
    assert trace.source_entropies == pytest.approx([binary_entropy(1)] * 2, rel=1e-5)
    assert logits[0].tolist() == pytest.approx([2.5, 0])
    for unfit in ([1.0], [1.0, 0.0], [1.0, math.inf]):
        with refused("2 models", "source_temperatures", "positive"):
            adaptive(models, source_temperatures=unfit)
