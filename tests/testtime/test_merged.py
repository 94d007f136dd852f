from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.state import average
from fedmerge.testtime.blocks import grouping
from fedmerge.testtime.merged import MergedModel
from fedmerge.testtime.options import Norms
from fedmerge.testtime.passes import Passes
from tests.facts import refused

EVERYONE = torch.arange(3)


def _merged(models: list[nn.Module], example: Tensor, **choices: Any) -> MergedModel:
    usual = {
        "batch_norm": "mixture",
        "granularity": "whole",
        "norms": Norms(prior=4.0),
        "scale": 1.0,
        "anchor": "mean",
        "head_module": None,
        "passes": Passes(),
    }
    merged = MergedModel(models, **(usual | choices))
    merged.prepare(example)
    return merged


class Deep(nn.Module):
    """A stem, two stages inside a container, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)),
        )
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("whole", ["encoder"]),
        ("block", ["body.0", "body.1", "body.2"]),
        ("layer", ["body.0", "body.2.0", "body.2.2"]),
    ],
)
def test_the_groups_of_an_encoder_in_the_order_they_run(
    batch: Tensor, granularity: Any, expected: list[str]
) -> None:
    groups, group = grouping(Deep().eval(), "fc", granularity, batch)
    assert groups == expected
    assert group("fc.weight") == "head"
    if granularity == "layer":
        assert group("body.1.running_mean") == "body.0", "a norm belongs to the layer before it"
        assert group("body.2.1.weight") == "body.2.0"
    with refused("pixel", "whole"):
        grouping(Deep(), "fc", "pixel", batch)


def test_each_group_has_coefficients_of_its_own(models: list[nn.Module], batch: Tensor) -> None:
    merged = _merged(models, batch, granularity="layer")
    assert merged.groups == ["conv"]
    merged.merge("conv", torch.tensor([1.0, 0.0, 0.0]), EVERYONE)
    merged.merge("head", torch.tensor([0.0, 0.0, 1.0]), EVERYONE)
    mixed = copy.deepcopy(models[0])
    mixed.fc = models[2].fc
    torch.testing.assert_close(merged.predict(batch), mixed(batch))
    torch.testing.assert_close(merged.answer(merged.features(batch)), mixed(batch))
    for model, said in zip(models, merged.heads(merged.features(batch), EVERYONE), strict=True):
        mixed.fc = model.fc
        torch.testing.assert_close(said, mixed(batch))


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_scale_draws_weights_back_to_the_mean_and_leaves_statistics(
    models: list[nn.Module], batch: Tensor, scale: float
) -> None:
    alpha = torch.tensor([0.7, 0.2, 0.1])
    merged, plain = _merged(models, batch, scale=scale), _merged(models, batch)
    for group in ("encoder", "head"):
        merged.merge(group, alpha, EVERYONE)
        plain.merge(group, alpha, EVERYONE)
    mean = average([model.state_dict() for model in models])
    for key, value in merged.sources.merged.items():
        at = plain.sources.merged[key]
        moved = at.is_floating_point() and "running" not in key
        expected = mean[key] + scale * (at - mean[key]) if moved else at
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_the_anchor_is_a_model_of_ones_own(models: list[nn.Module], batch: Tensor) -> None:
    alpha = torch.tensor([0.7, 0.2, 0.1])
    for anchor in (models[1], models[1].state_dict()):
        merged = _merged(models, batch, scale=0.0, anchor=anchor)
        merged.merge("head", alpha, EVERYONE)
        torch.testing.assert_close(merged.sources.merged["fc.weight"], models[1].fc.weight.detach())
    with refused("anchor", "fc.weight", "models[0]"):
        _merged(models, batch, anchor=type(models[0])(classes=9))


def test_those_left_out_are_not_even_read(models: list[nn.Module], batch: Tensor) -> None:
    nn.init.constant_(models[1].fc.weight, torch.nan)
    merged = _merged(models, batch)
    merged.merge("head", torch.tensor([0.5, 0.5]), torch.tensor([0, 2]))
    expected = (models[0].fc.weight + models[2].fc.weight) / 2
    torch.testing.assert_close(merged.sources.merged["fc.weight"], expected.detach())
