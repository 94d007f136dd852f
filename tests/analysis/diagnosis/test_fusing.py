"""Weights against features, errors of matching, tasks, settings: laws that hold whatever the weights are."""

from __future__ import annotations

import copy

import pytest
import torch
from facts import refused
from networks_of_diagnosis import convolutional, perceptron, pixels
from torch import nn

from fedmerge.analysis.diagnosis import Subject, features, neurons, settings, tasks, why
from fedmerge.analysis.diagnosis import heads as heads_of
from fedmerge.analysis.diagnosis.contract import answers


def linear(seed: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 3))
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))
        net[1].weight.copy_(torch.eye(2, 4))
        net[1].bias.zero_()
    return net.eval()


def test_under_one_encoder_averaging_weights_is_averaging_logits(subject) -> None:
    found = features.features(subject(linear(0), linear(1), linear(2)), timed=False)
    table = found.frame.pivot(index="models", columns="method", values="accuracy")
    assert table.index.tolist() == [2, 3]
    for method in ("ensemble-logits", "ensemble-features"):
        assert table[method].tolist() == table["mean"].tolist()
    assert found.number == 0
    assert "averaging works" in why({"features": found})


def test_flops_and_parameters_are_counted_by_hand(subject) -> None:
    """An image passes 2 x 4 and 3 x 2 products, each a multiplication and an addition; a model keeps 19."""
    given = subject(linear(0), linear(1))
    rows = features.features(given, timed=False).frame.set_index("method")
    assert rows.loc["mean", "gflops"] == pytest.approx(2 * (8 + 6) / 1e9)
    assert rows.loc["ensemble-logits", "gflops"] == pytest.approx(2 * 2 * (8 + 6) / 1e9)
    assert rows.loc["mean", "parameters"] == 8 + 2 + 6 + 3
    assert rows.loc["ensemble-features", "parameters"] == 2 * 19 + 6 + 3  # and the mean of the heads
    assert features.cost(linear(0), pixels(8), timed=True)["ms"] > 0


def test_a_head_on_its_own_encoder_is_its_model(subject) -> None:
    given = subject(perceptron(0), perceptron(1))
    table = heads_of.heads(given).frame.pivot(index="encoder", columns="head", values="loss")
    for name, model in given.models.items():
        assert table.loc[name, name] == pytest.approx(given.score(model).loss, rel=1e-5)
    assert table.shape == (3, 3)


def test_grouping_and_approximation_are_all_of_the_error(subject) -> None:
    """sum |f - z|^2 by hooks, over both models and the layer's neurons, is the sum of the two parts."""
    models = [perceptron(0), perceptron(1)]
    given = subject(*models)
    found = neurons.neurons(given, methods=("mean",)).frame
    middle = copy.deepcopy(models[0])
    with torch.no_grad():
        for mine, *others in zip(middle.parameters(), *(m.parameters() for m in models), strict=True):
            mine.copy_(torch.stack(others).mean(0))
        for place, row in zip((1, 3), found.to_dict("records"), strict=True):
            f, a, b = (net[: place + 1](given.images).double() for net in (middle, *models))
            size = float(a.square().sum() + b.square().sum())
            error = float((f - a).square().sum() + (f - b).square().sum()) / size
            assert row["grouping"] + row["approximation"] == pytest.approx(error, rel=1e-5)
            assert row["grouping"] == pytest.approx(float((a - b).square().sum()) / 2 / size, rel=1e-5)


def test_matching_equal_models_leaves_no_error(subject) -> None:
    found = neurons.neurons(subject(perceptron(0), perceptron(0)), methods=("mean", "hf"))
    assert found.frame[["grouping", "approximation"]].to_numpy().max() < 1e-6
    assert found.tables["methods"]["agreement"].tolist() == [1, 1]
    assert "exact" in found.sentence


def test_models_of_other_widths_are_matched_and_their_importance_is_shared_out(subject) -> None:
    given = subject(perceptron(0, hidden=12), perceptron(1, hidden=16))
    found = neurons.neurons(given, methods=("mean", "kf"), attribution="conductance")
    assert set(found.frame["method"]) == {"kf"}  # no mean of other widths
    shares = found.tables["importance"]["top_tenth"]
    assert len(shares) == 4
    assert shares.between(0, 1).all()
    with refused("1.weight", "a", "b"):
        given.check_alike()


def test_equal_encoders_serve_all_tasks_with_their_own_heads(subject) -> None:
    first, second = linear(0), linear(1)  # one encoder, two heads
    images = pixels(40)
    labels = torch.cat([answers(first, images[:20]).argmax(1), answers(second, images[20:]).argmax(1)])
    owners = torch.arange(40) // 20
    given = Subject.of({"a": first, "b": second}, images, labels, owners=owners)
    found = tasks.tasks(given, methods=("mean", "ensemble-logits"))
    assert set(found.frame["task"]) == {"a", "b"}
    assert (found.frame["accuracy"] == 1).all()
    assert found.number == 0


def test_tasks_may_have_other_classes_but_not_other_encoders() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 5)).eval()
    images, owners = pixels(16), torch.arange(16) // 8
    labels = torch.cat([torch.zeros(8), torch.full((8,), 4.0)]).long()
    found = tasks.tasks(
        Subject.of({"a": linear(0), "b": wide}, images, labels, owners=owners), methods=("mean",)
    )
    assert len(found.frame) == 6
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 5)).eval()
    with refused("encoders"):
        tasks.tasks(Subject.of({"a": linear(0), "b": other}, images, labels, owners=owners))


def test_the_held_out_rule_takes_the_least_divergence_and_is_no_worse_than_the_default() -> None:
    models = [convolutional(0), convolutional(1)]
    images = pixels(50, side=6)
    short = {"descent": {"epochs": 2}}
    candidates = {"default": short, "zero": short | {"closed_form": {"towards": "zero", "ridge": 1.0}}}
    held, best = settings.choose(models, images, candidates)
    assert held[best] == min(held.values()) <= held["default"]
    assert held["default"] != held["zero"]
    alone, first = settings.choose(models, images, {"default": short})
    assert first == "default"
    assert alone["default"] == held["default"]  # whatever stands beside it
    with refused("4 images", "10"):
        settings.choose(models, images[:4], candidates)
    with refused("epoch", "epochs"):
        settings.choose(models, images, {"default": {"descent": {"epoch": 1}}})


def test_settings_are_compared_on_images_that_the_rule_did_not_see(subject, monkeypatch) -> None:
    monkeypatch.setattr(settings, "CANDIDATES", {"default": {}, "descent": {"closed_form": {"use": False}}})
    found = settings.settings(subject(perceptron(0), perceptron(1)), epochs=2)
    assert found.frame["name"].tolist() == ["default", "descent"]
    assert found.frame["chosen"].sum() == 1
