"""What moves with a merged filter: its bias, its batch norm, the optimizer's first moment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS


def two_filter_network() -> nn.Sequential:
    """With two filters, p = 1 and no threshold, a pass maps (a, b) to (.8 a + .2 b, .2 a + .8 b)."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model[0].weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    for value in (model[0].bias, model[1].weight, model[1].bias, model[1].running_mean, model[1].running_var):
        value.data = torch.tensor([10.0, 20.0])
    return model


@pytest.mark.parametrize(("bias", "expected"), [("leave", [10.0, 20.0]), ("follow", [12.0, 18.0])])
def test_follow_moves_bias_and_batch_norm_alike(bias: Any, expected: list[float]) -> None:
    model = two_filter_network()
    InMerge(model, **ALWAYS, layers="all", bias=bias).step()
    torch.testing.assert_close(model[0].weight.data.flatten(), torch.tensor([1.2, 1.8]))
    followers = (model[0].bias, model[1].weight, model[1].bias, model[1].running_mean, model[1].running_var)
    for value in followers:
        torch.testing.assert_close(value.data, torch.tensor(expected))


@pytest.mark.parametrize(("momentum", "expected"), [("leave", [10.0, 20.0]), ("mix", [12.0, 18.0])])
@pytest.mark.parametrize(("optimizer", "key"), [("SGD", "momentum_buffer"), ("AdamW", "exp_avg")])
def test_mix_moves_the_first_moment(momentum: Any, expected: list[float], optimizer: str, key: str) -> None:
    model = two_filter_network()
    chosen = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if optimizer == "AdamW":
        chosen = torch.optim.AdamW(model.parameters(), lr=0.1)
    chosen.state[model[0].weight][key] = torch.tensor([10.0, 20.0]).view(2, 1, 1, 1)
    InMerge(model, **ALWAYS, layers="all", momentum=momentum).attach(chosen).step()
    torch.testing.assert_close(chosen.state[model[0].weight][key].flatten(), torch.tensor(expected))


def test_mix_without_an_optimizer_is_a_sentence() -> None:
    with refused("attach", "InMerge", "momentum="):
        InMerge(two_filter_network(), **ALWAYS, layers="all", momentum="mix").step()
