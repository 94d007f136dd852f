from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import DaWin
from fedmerge.testtime.baselines.sources import merged_logits, softmin
from fedmerge.testtime.entropy import coefficients
from tests.facts import refused


def test_softmin_of_one_column_is_that_of_the_node() -> None:
    scores = torch.tensor([[0.3, 0.1], [0.1, 0.1], [0.9, 0.4]])
    for temperature in (1e-300, 0.1, 1.0, math.inf):
        both = softmin(scores, temperature)
        for column in range(2):
            torch.testing.assert_close(both[:, column], coefficients(scores[:, column], temperature))
    with refused(0, "above"):
        softmin(scores, 0.0)


def test_a_merge_for_each_image_is_what_each_image_alone_would_get(
    models: list[nn.Module], batch: Tensor
) -> None:
    """Corners of the simplex: image n merged with all weight on source n mod 3 is that source's answer."""
    node = DaWin(models)
    alpha = torch.eye(3)[:, torch.arange(8) % 3]
    logits = merged_logits(node, node.sources, alpha, batch)
    expected = torch.stack([models[n % 3](batch[n : n + 1])[0] for n in range(8)])
    torch.testing.assert_close(logits, expected)
    assert node.forward_passes == 1


def test_a_source_that_is_not_finite_is_named(models: list[nn.Module], batch: Tensor) -> None:
    models[1].fc.bias.data[0] = torch.nan
    with refused(1, "finite", "normalisation"):
        DaWin(models).observe(batch)
