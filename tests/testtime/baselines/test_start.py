from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.state import average
from fedmerge.testtime.baselines.start import check_step, mean_merged, named_head, nats
from tests.facts import refused


@pytest.mark.parametrize("policy", ["mixture", "average"])
def test_the_start_is_the_mean(models: list[nn.Module], policy: str) -> None:
    mean = average([model.state_dict() for model in models], batch_norm=policy)
    merged = mean_merged(models, policy)
    assert all(torch.equal(value, mean[key]) for key, value in merged.state_dict().items())
    assert not merged.training
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_one_model_alone_is_its_own_mean(models: list[nn.Module]) -> None:
    merged = mean_merged(models[:1], "mixture").state_dict()
    assert all(torch.equal(value, merged[key]) for key, value in models[0].state_dict().items())


def test_an_unknown_policy_is_a_sentence(models: list[nn.Module]) -> None:
    with refused("first", "average", "mixture"):
        mean_merged(models, "first")


def test_entropy_in_nats_of_three_to_one_and_of_a_uniform_prediction() -> None:
    three = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert nats(torch.tensor([math.log(3), 0.0])).item() == pytest.approx(three, rel=1e-6)
    assert nats(torch.zeros(5)).item() == pytest.approx(math.log(5), rel=1e-6)


def test_the_head_is_found_or_checked(models: list[nn.Module], batch: Tensor) -> None:
    assert named_head(models[0], None, batch[:2]) == "fc"
    assert named_head(models[0], "fc", batch[:2]) == "fc"
    with refused("conv", "SmallNet"):
        named_head(models[0], "conv", batch[:2])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((0.0, 1, "before"), ("learning_rate", 0)),
        ((math.inf, 1, "before"), ("learning_rate", "inf")),
        ((math.nan, 1, "before"), ("learning_rate", "nan")),
        ((0.1, 0, "before"), (0, "steps")),
        ((0.1, 1, "during"), ("during", "before", "after")),
    ],
)
def test_unfit_steps_are_sentences(step: tuple[float, int, str], words: tuple[object, ...]) -> None:
    with refused(*words):
        check_step(*step)
