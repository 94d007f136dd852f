from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from tests.facts import refused

IMAGES = torch.arange(7 * 4, dtype=torch.uint8).view(7, 1, 2, 2)
NORMALISE = Normalisation.named("none")


class SumAndMean(nn.Module):
    """Two logits per image, sum and mean of its pixels; with dropout and batch norm that must not act."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1, eps=1e-30))

    def forward(self, x: Tensor) -> Tensor:
        x = self.noise(x).flatten(1)
        return torch.stack([x.sum(1), x.mean(1)], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_logits_come_in_order_whatever_the_batch_size(batch_size: int) -> None:
    """Image i holds 4i .. 4i + 3: sum 16i + 6, mean 4i + 1.5, both over 255."""
    expected = torch.tensor([[16 * i + 6, 4 * i + 1.5] for i in range(7)]) / 255
    out = predict(SumAndMean(), IMAGES, NORMALISE, batch_size=batch_size)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    torch.testing.assert_close(out, expected)


def test_every_modules_own_mode_is_restored_even_after_an_error() -> None:
    model = SumAndMean()
    model.noise[1].eval()
    before = [module.training for module in model.modules()]
    predict(model, IMAGES, NORMALISE)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError):
        predict(model, IMAGES, lambda batch: batch / (1 // 0))
    assert [module.training for module in model.modules()] == before


def test_running_statistics_are_not_touched() -> None:
    model = SumAndMean()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predict(model, IMAGES, NORMALISE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_progress_counts_images() -> None:
    seen: list[tuple[int, int]] = []
    predict(SumAndMean(), IMAGES, NORMALISE, batch_size=3, progress=lambda *step: seen.append(step))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_nothing_to_predict_is_an_error_in_words() -> None:
    with refused("predict", "images"):
        predict(SumAndMean(), IMAGES[:0], NORMALISE)
    with refused(0, "size", "batch"):
        predict(SumAndMean(), IMAGES, NORMALISE, batch_size=0)
