from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedmerge.models.flat import FlatModels
from fedmerge.testtime.answers import Answers, ask_all, check_temperatures, spread, together
from tests.facts import refused


def test_sources_are_asked_as_they_are_and_divided_by_their_temperatures(
    models: list[nn.Module], batch: Tensor
) -> None:
    answers = ask_all(FlatModels(models, models[0]), batch, torch.tensor([1.0, 2.0, 4.0]), "fc")
    for model, temperature, logits, features in zip(
        models, (1, 2, 4), answers.logits, answers.features, strict=True
    ):
        torch.testing.assert_close(logits, model(batch) / temperature)
        torch.testing.assert_close(model.fc(features), model(batch))
    assert answers.finite.tolist() == [0, 1, 2]
    torch.testing.assert_close(answers.mean(), torch.softmax(answers.logits, dim=-1).mean(dim=0))


def test_a_broken_source_takes_its_features_along(models: list[nn.Module], batch: Tensor) -> None:
    nn.init.constant_(models[1].fc.bias, math.nan)
    answers = ask_all(FlatModels(models, models[0]), batch, torch.ones(3), "fc")
    assert answers.finite.tolist() == [0, 2]
    assert answers.logits.shape == (2, 8, 4)
    torch.testing.assert_close(models[2].fc(answers.features[1]), answers.logits[1])


def test_one_broken_model_is_named(models: list[nn.Module], batch: Tensor) -> None:
    nn.init.constant_(models[0].fc.bias, math.inf)
    with refused(0, "logits", "does"):
        ask_all(FlatModels(models[:1], models[0]), batch, torch.ones(1))


def test_spread_puts_values_at_their_places() -> None:
    finite = torch.tensor([0, 2])
    assert spread(torch.tensor([3.0, 4.0]), finite, 3, 0.0).tolist() == [3, 0, 4]
    both = spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), finite, 3, -1.0)
    assert both.tolist() == [[1, 2], [-1, -1], [3, 4]]


def test_together_is_the_mean_of_the_merged_and_the_weighted_sources() -> None:
    """Probabilities of two classes: merged 0.5, sources 0.9 and 0.3 weighted 3 : 1 give (0.5 + 0.75) / 2."""
    sources = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]).log()
    merged = torch.zeros(2, 2)
    answers = Answers(sources, torch.tensor([0, 1]), chosen=torch.tensor([1]))
    p = together(merged, answers, torch.tensor([0.75, 0.25])).exp()
    torch.testing.assert_close(p, torch.tensor([[0.5, 0.5], [0.625, 0.375]]))


def test_temperatures_are_one_each_or_a_sentence() -> None:
    assert check_temperatures(None, 2).tolist() == [1, 1]
    with refused("2 models", "source_temperatures", "positive"):
        check_temperatures([1.0, -1.0], 2)
