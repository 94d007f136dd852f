from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import DaWin
from tests.facts import refused

IMAGES = ([1.0, 0.0], [0.0, 0.25])


def _second(entropy_of_gap, size: float) -> float:
    """The paper's ratio for the second of two sources, whose gaps are ``size`` and 3 ``size``."""
    first, second = math.exp(-entropy_of_gap(size)), math.exp(-entropy_of_gap(3 * size))
    return second / (first + second)


def test_each_image_by_its_own_ratio(linear, pixels, entropy_of_gap) -> None:
    """Encoders I and 3 I, heads I: image x is answered by (1 + 2 lambda_2(x)) x."""
    logits, trace = DaWin([linear(1.0, 1.0), linear(3.0, 1.0)]).observe(pixels(*IMAGES))
    ratios = [_second(entropy_of_gap, size) for size in (1.0, 0.25)]
    expected = [[1 + 2 * ratios[0], 0.0], [0.0, 0.25 * (1 + 2 * ratios[1])]]
    torch.testing.assert_close(logits, torch.tensor(expected))
    assert trace.encoder[1] == pytest.approx(sum(ratios) / 2, rel=1e-5)


def test_a_batch_by_the_mean_ratio(linear, pixels, entropy_of_gap) -> None:
    logits, trace = DaWin([linear(1.0, 1.0), linear(3.0, 1.0)], form="batch").observe(pixels(*IMAGES))
    ratio = sum(_second(entropy_of_gap, size) for size in (1.0, 0.25)) / 2
    torch.testing.assert_close(logits, (1 + 2 * ratio) * torch.tensor(IMAGES))
    assert trace.head == pytest.approx((1 - ratio, ratio), rel=1e-5)


def test_by_sample_the_batch_does_not_matter(models: list[nn.Module], batch: Tensor) -> None:
    together, _ = DaWin(models).observe(batch)
    alone = torch.cat([DaWin(models).observe(image[None])[0] for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_one_image_is_the_same_in_both_forms(models: list[nn.Module], batch: Tensor) -> None:
    sample, whole = (DaWin(models, form=form).observe(batch[:1])[0] for form in ("sample", "batch"))
    torch.testing.assert_close(sample, whole)


def test_permuting_sources_permutes_coefficients(models: list[nn.Module], batch: Tensor) -> None:
    logits, trace = DaWin(models).observe(batch)
    other_logits, other = DaWin(models[::-1]).observe(batch)
    assert other.encoder == pytest.approx(trace.encoder[::-1], abs=1e-6)
    torch.testing.assert_close(other_logits, logits, rtol=1e-4, atol=1e-4)


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    with refused("temperature"):
        DaWin(models, temperature=-1.0)
    with refused("cluster", "batch", "sample"):
        DaWin(models, form="cluster")
