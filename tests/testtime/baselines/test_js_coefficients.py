from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import JensenShannon
from fedmerge.testtime.baselines.js_coefficients import jensen_shannon
from tests.facts import refused


def test_divergences_in_closed_form() -> None:
    """(3/4, 1/4) and (1/4, 3/4): log 2 - H(3/4); equal: 0; disjoint: log 2; symmetric."""
    p, q = torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)])
    expected = math.log(2) - (0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert jensen_shannon(p, q).item() == pytest.approx(expected, rel=1e-5)
    assert jensen_shannon(q, p).item() == pytest.approx(expected, rel=1e-5)
    assert jensen_shannon(p, p).item() == 0
    far = torch.tensor([1e4, 0.0])
    assert jensen_shannon(far, far.flip(0)).item() == pytest.approx(math.log(2))


def _js(first: float, second: float) -> float:
    """Two classes whose logits differ by ``first`` and by ``second``."""
    p, q = (1 / (1 + math.exp(-gap)) for gap in (first, second))
    m = (p + q) / 2
    parts = [(p, m), (1 - p, 1 - m), (q, m), (1 - q, 1 - m)]
    return sum(a * math.log(a / b) for a, b in parts) / 2


@pytest.mark.parametrize("form", ["batch", "sample"])
def test_between_generalist_and_expert_by_hand(linear, pixels, form: str) -> None:
    """Encoders I and 3 I, heads I, x = (1, 0): the expert is 3 I, the generalist (mean) 2 I.

    lambda = sigmoid(gamma JS(gaps 3 and 2)); the merge is lambda (1/2, 1/2) + (1 - lambda) (0, 1).
    """
    node = JensenShannon([linear(1.0, 1.0), linear(3.0, 1.0)], gamma=40.0, form=form)
    logits, trace = node.observe(pixels([1.0, 0.0]))
    weight = 1 / (1 + math.exp(-40 * _js(3, 2)))
    assert trace.encoder == pytest.approx((weight / 2, 1 - weight / 2), rel=1e-4)
    assert logits[0].tolist() == pytest.approx([3 - weight, 0], rel=1e-4)


def test_consensus_by_hand(linear, pixels) -> None:
    """Gaps 1, 1, -4 on x = (1, 0): JS of each to the mean prediction, softmax at T log 2."""
    models = [linear(1.0, 1.0), linear(1.0, 1.0), linear(-4.0, 1.0)]
    _, trace = JensenShannon(models, rule="consensus", temperature=0.5).observe(pixels([1.0, 0.0]))
    mean = sum(1 / (1 + math.exp(-gap)) for gap in (1, 1, -4)) / 3
    between = math.log(mean / (1 - mean))
    scores = [math.exp(-_js(gap, between) / math.log(2) / 0.5) for gap in (1, 1, -4)]
    assert trace.encoder == pytest.approx([score / sum(scores) for score in scores], rel=1e-4)
    assert trace.encoder[2] < trace.encoder[0]


@pytest.mark.parametrize("rule", ["generalist", "consensus"])
def test_by_sample_the_batch_does_not_matter(models: list[nn.Module], batch: Tensor, rule: str) -> None:
    together, _ = JensenShannon(models, rule=rule, form="sample").observe(batch)
    alone = torch.cat([JensenShannon(models, rule=rule).observe(image[None])[0] for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_coefficients_sum_to_one_and_consensus_costs_one_pass_less(
    models: list[nn.Module], batch: Tensor
) -> None:
    for rule, passes in (("generalist", 5), ("consensus", 4)):
        node = JensenShannon(models, rule=rule)
        _, trace = node.observe(batch)
        assert sum(trace.encoder) == pytest.approx(1, abs=1e-6)
        assert node.forward_passes == passes


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    for options, words in (
        ({"rule": "expert"}, ("expert", "consensus", "generalist")),
        ({"form": "image"}, ("image", "batch", "sample")),
        ({"gamma": math.inf}, ("gamma", "inf")),
        ({"temperature": 0.0}, (0, "temperature")),
    ):
        with refused(*words):
            JensenShannon(models, **options)
