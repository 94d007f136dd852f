from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import AlphaBn, BnAdapt
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_at_one_it_is_the_batch_and_at_nought_the_sources(models: list[nn.Module], batch: Tensor) -> None:
    whole = AlphaBn(models, alpha=1.0).observe(batch)[0]
    torch.testing.assert_close(whole, BnAdapt(models).observe(batch)[0])
    none = AlphaBn(models, alpha=0.0).observe(batch)[0]
    torch.testing.assert_close(none, mean_merged(models, "mixture")(batch))


def test_between_them_by_hand(models: list[nn.Module], batch: Tensor) -> None:
    mean = mean_merged(models[:1], "mixture")
    with torch.no_grad():
        seen = mean.conv(batch)
        m, v = seen.mean(dim=(0, 2, 3)), seen.var(dim=(0, 2, 3), correction=0)
        mean.norm.running_mean.mul_(0.75).add_(0.25 * m)
        mean.norm.running_var.mul_(0.75).add_(0.25 * v)
    torch.testing.assert_close(AlphaBn(models[:1], alpha=0.25).observe(batch)[0], mean(batch))


def test_the_share_is_the_same_for_a_small_batch(models: list[nn.Module], batch: Tensor) -> None:
    """Three images that are one image three times have its moments, and their number does not count."""
    node = AlphaBn(models, alpha=0.5)
    torch.testing.assert_close(
        node.observe(batch[:1].expand(3, -1, -1, -1))[0][:1], node.observe(batch[:1])[0], rtol=1e-4, atol=1e-4
    )


def test_unfit_models_and_options_are_sentences(models: list[nn.Module], linear) -> None:
    with refused("norm", "alpha-bn"):
        AlphaBn([linear(1.0, 1.0)])
    for alpha in (-0.1, 1.1):
        with refused("alpha", alpha):
            AlphaBn(models, alpha=alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_one_image_without_pixels_has_no_moments_of_its_own(pixels, alpha: float) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    found = AlphaBn([model], alpha=alpha).observe(pixels([1.0, 2.0]))[0]
    torch.testing.assert_close(found, model(pixels([1.0, 2.0])), rtol=1e-4, atol=1e-4)
