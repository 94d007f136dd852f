"""Recipes: what learns, what stays, and the numbers by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models import Normalisation
from fedmerge.seeding import Draws
from fedmerge.tasks import MULTICLASS
from fedmerge.training import TrainingOptions, fit
from fedmerge.training.objective import Objective
from fedmerge.training.recipe import parameter_groups
from tests.facts import refused

half = Normalisation.named("half")
Data = tuple[Tensor, Tensor]


class Small(nn.Module):
    """An encoder with a batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(dim=(2, 3)))


@pytest.fixture
def data() -> Data:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (24, 3, 6, 6), generator=draws, dtype=torch.uint8), torch.arange(24) % 2


def trained(data: Data, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Small()
    before = copy.deepcopy(model)
    fit(model, *data, TrainingOptions(batch_size=8, lr=0.1, **options), normalise=half, draws=Draws(0))  # type: ignore[arg-type]
    return before, model


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    old = before.state_dict()
    return {key for key, value in after.state_dict().items() if not torch.equal(value, old[key])}


def test_a_linear_probe_moves_the_head_alone(data: Data) -> None:
    before, after = trained(data, recipe="linear-probe", epochs=2)
    assert moved(before, after) == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_a_probe_is_logistic_regression_on_the_features_in_evaluation_mode(data: Data) -> None:
    images, labels = data
    before, after = trained(data, recipe="linear-probe", momentum=0, weight_decay=0, schedule="constant")
    head = copy.deepcopy(before.head)
    with torch.no_grad():
        z = before.eval().encoder(half(images)).mean(dim=(2, 3))
    order = torch.nn.functional.one_hot(labels).float()
    for _ in range(1):  # one step on all images from the same start: batches of 24
        residual = torch.softmax(head(z), dim=1) - order
        expected = head.weight - 0.1 * residual.T @ z / 24
    one = copy.deepcopy(before)
    options = TrainingOptions(
        batch_size=24, lr=0.1, momentum=0, weight_decay=0, schedule="constant", recipe="linear-probe"
    )
    fit(one, images, labels, options, normalise=half, draws=Draws(0))
    torch.testing.assert_close(one.head.weight, expected)
    assert not torch.equal(after.head.weight, before.head.weight)


def test_lp_ft_is_the_probe_then_everything(data: Data) -> None:
    """Its first half is the probe of as many epochs at the same rates; then the encoder moves, too."""
    probe = trained(data, recipe="lp-ft", epochs=2, probe_epochs=2, schedule="constant")
    alone = trained(data, recipe="linear-probe", epochs=2, schedule="constant")
    for a, b in zip(probe[1].parameters(), alone[1].parameters(), strict=True):
        assert torch.equal(a, b)
    before, after = trained(data, recipe="lp-ft", epochs=2)
    assert {"encoder.0.weight", "encoder.1.running_mean", "head.weight"} <= moved(before, after)


def test_frozen_norms_keep_their_statistics_and_slow_ones_follow_slowly(data: Data) -> None:
    before, frozen = trained(data, norm_momentum=0.0)
    assert not {key for key in moved(before, frozen) if "running" in key or "tracked" in key}
    assert "encoder.1.weight" in moved(before, frozen)
    images, labels = data
    one = TrainingOptions(batch_size=24, lr=1e-9, norm_momentum=0.01, weight_decay=0)
    slow = copy.deepcopy(before)
    fit(slow, images, labels, one, normalise=half, draws=Draws(0))
    with torch.no_grad():
        mean = before.encoder[0](half(images)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(slow.encoder[1].running_mean, 0.01 * mean)
    assert slow.encoder[1].momentum == 0.1, "the network's own is put back"


def test_rates_go_from_the_first_layer_to_the_last() -> None:
    """Three layers with parameters: r, sqrt(r), 1; and steps of SGD are as long."""
    groups = parameter_groups(Small(), 0.01)
    assert [group["rate"] for group in groups] == pytest.approx([0.01, 0.1, 1.0])
    assert [len(group["params"]) for group in groups] == [2, 2, 2]  # type: ignore[arg-type]


def test_a_step_is_scaled_by_its_layers_rate(data: Data) -> None:
    options = {"momentum": 0, "weight_decay": 0, "schedule": "constant", "epochs": 1}
    images, labels = data
    steps = []
    for rate in (1.0, 0.01):
        torch.manual_seed(0)
        model = Small()
        first = model.encoder[0].weight.detach().clone()
        chosen = TrainingOptions(batch_size=24, lr=0.1, first_layer_rate=rate, **options)  # type: ignore[arg-type]
        fit(model, images, labels, chosen, normalise=half, draws=Draws(0))
        steps.append(model.encoder[0].weight.detach() - first)
    torch.testing.assert_close(steps[1], 0.01 * steps[0], rtol=1e-3, atol=1e-7)


def test_class_weights_by_hand() -> None:
    """Counts 6, 2, 0 of 8: 8 / (2 * 6), 8 / (2 * 2), and 1 for a class without images."""
    labels = torch.tensor([0] * 6 + [1] * 2)
    logits = torch.zeros(1, 3)
    for kind, power in (("balanced", 1.0), ("sqrt", 0.5)):
        options = TrainingOptions(batch_size=8, class_weights=kind)  # type: ignore[arg-type]
        objective = Objective(MULTICLASS, labels, options, "here")
        objective(logits, torch.tensor([0]))
        assert objective.weights is not None
        torch.testing.assert_close(objective.weights, torch.tensor([2 / 3, 2.0, 1.0]) ** power)


def test_balanced_weights_of_even_classes_change_nothing(data: Data) -> None:
    _, plain = trained(data, epochs=2)
    _, weighted = trained(data, epochs=2, class_weights="balanced")
    for a, b in zip(plain.parameters(), weighted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_as_usual_is_not_written() -> None:
    assert (
        not {"recipe", "norm_momentum", "first_layer_rate", "class_weights"}
        & TrainingOptions().model_dump().keys()
    )
    written = TrainingOptions(recipe="lp-ft", norm_momentum=0.0).model_dump()
    assert (written["recipe"], written["norm_momentum"]) == ("lp-ft", 0.0)
    assert TrainingOptions(**written) == TrainingOptions(recipe="lp-ft", norm_momentum=0.0)


def test_options_that_do_not_fit_are_sentences() -> None:
    from pydantic import ValidationError

    for unfit, word in (
        ({"probe_epochs": 1}, ("lp-ft",)),
        ({"recipe": "lp-ft", "probe_epochs": 3, "epochs": 2}, ("2", "epochs")),
        ({"recipe": "linear-probe", "inmerge": {}}, ("linear-probe",)),
    ):
        with refused(*word, kind=ValidationError):
            TrainingOptions(**unfit)  # type: ignore[arg-type]


def test_a_network_without_a_head_cannot_be_probed(data: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    with refused("encoder"):
        fit(
            model, *data, TrainingOptions(batch_size=8, recipe="linear-probe"), normalise=half, draws=Draws(0)
        )
