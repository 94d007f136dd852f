from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import seeded
from fedmerge.testtime.baselines import BnAdapt
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_it_is_the_mean_model_with_batch_norm_in_training_mode(
    models: list[nn.Module], batch: Tensor
) -> None:
    mean = mean_merged(models, "mixture")
    mean.norm.train()  # dropout stays off
    torch.testing.assert_close(BnAdapt(models).observe(batch)[0], mean(batch))


@pytest.mark.parametrize("policy", ["mixture", "average"])
def test_with_many_source_images_it_is_the_mean_model(
    models: list[nn.Module], batch: Tensor, policy: str
) -> None:
    logits, _ = BnAdapt(models, source_images=1e9, batch_norm=policy).observe(batch)
    torch.testing.assert_close(logits, mean_merged(models, policy)(batch), rtol=1e-4, atol=1e-4)


def test_a_change_of_gain_and_offset_is_undone(models: list[nn.Module], batch: Tensor) -> None:
    """Batch norm follows the convolution, so 2 x - 1 with no border is normalised away (but for epsilon)."""
    node = BnAdapt(models)
    torch.testing.assert_close(node.observe(2 * batch - 1)[0], node.observe(batch)[0], rtol=1e-3, atol=1e-3)


def test_nothing_is_carried_from_batch_to_batch(models: list[nn.Module], batch: Tensor) -> None:
    node = BnAdapt(models, source_images=4)
    first = node.observe(batch)[0]
    node.observe(batch * 5)
    assert torch.equal(node.observe(batch)[0], first)


def test_unfit_models_and_options_are_sentences(models: list[nn.Module], linear) -> None:
    with refused("norm", "bn-adapt"):
        BnAdapt([linear(1.0, 1.0)])
    with refused("source_images"):
        BnAdapt(models, source_images=-1.0)


def test_one_image_without_pixels_is_answered_by_the_mean_model(pixels) -> None:
    with seeded(0, "test"):
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    nn.init.constant_(model[1].running_mean, 0.5)
    x = pixels([1.0, 0.0])
    torch.testing.assert_close(BnAdapt([model]).observe(x)[0], model(x).detach())
