from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import EntropyWeighted
from tests.facts import refused
from tests.testtime.grouped import adaptive


def test_two_sources_by_hand(linear, pixels, entropy_of_gap) -> None:
    """Gaps 1 and 3 on x = (1, 0), T = 0.2: p = sum alpha_i sigmoid(gap_i), alpha from entropies / log 2."""
    node = EntropyWeighted([linear(1.0, 1.0), linear(3.0, 1.0)], temperature=0.2)
    logits, trace = node.observe(pixels([1.0, 0.0]))
    gain = (entropy_of_gap(1) - entropy_of_gap(3)) / math.log(2) / 0.2
    alpha = 1 / (1 + math.exp(-gain))
    p = (1 - alpha) / (1 + math.exp(-1)) + alpha / (1 + math.exp(-3))
    assert trace.encoder == trace.head == pytest.approx((1 - alpha, alpha), rel=1e-5)
    assert logits.exp()[0].tolist() == pytest.approx([p, 1 - p], rel=1e-5)


def test_its_weights_are_those_of_the_node(models: list[nn.Module], batch: Tensor) -> None:
    _, trace = EntropyWeighted(models).observe(batch)
    _, merged = adaptive(models, head="shared").observe(batch)
    assert trace.encoder == pytest.approx(merged.encoder, abs=1e-6)
    assert trace.source_entropies == pytest.approx(merged.source_entropies, abs=1e-6)


@pytest.mark.parametrize("form", ["batch", "sample"])
def test_an_infinite_temperature_is_the_probability_ensemble(
    models: list[nn.Module], batch: Tensor, form: str
) -> None:
    logits, _ = EntropyWeighted(models, temperature=math.inf, form=form).observe(batch)
    mean = torch.stack([model(batch).softmax(dim=1) for model in models]).mean(dim=0)
    torch.testing.assert_close(logits.exp(), mean)


def test_by_sample_each_image_is_weighted_alone(models: list[nn.Module], batch: Tensor) -> None:
    by_sample, _ = EntropyWeighted(models, form="sample").observe(batch)
    alone = torch.cat([EntropyWeighted(models).observe(image[None])[0] for image in batch])
    torch.testing.assert_close(by_sample, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_sample, EntropyWeighted(models).observe(batch)[0])


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    with refused(0, "temperature"):
        EntropyWeighted(models, temperature=0.0)
    with refused("image", "batch", "sample"):
        EntropyWeighted(models, form="image")
