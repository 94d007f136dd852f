"""Paths and planes are measured at the weights that they name."""

from __future__ import annotations

import copy

import pytest
import torch
from facts import refused
from networks_of_diagnosis import convolutional, perceptron, pixels

from fedmerge.analysis.diagnosis import Subject, barriers, landscape, why
from fedmerge.analysis.diagnosis.blends import Blends
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.merging import merge
from fedmerge.models.copies import fill
from fedmerge.models.graph import follow, neurons_of, permute, random_permutations
from fedmerge.models.state import average
from fedmerge.testtime.norms import use_batch_statistics


def permuted(model):
    """The same function with its hidden neurons in another order."""
    state = dict(model.state_dict())
    program = follow(model, pixels(2))
    neurons = neurons_of(program, state)
    return fill(copy.deepcopy(model), permute(state, neurons, random_permutations(neurons, 3)))


def test_the_barrier_of_a_permuted_copy_vanishes_after_matching(subject) -> None:
    model = perceptron(0)
    copied = permuted(model)
    before = barriers.barriers(subject(model, copied), to_mean=False)
    assert before.number > 0.05  # both ends are right everywhere, the middle is not
    matched = merge([model, copied], "rebasin", by="weights", data=pixels(2)).model
    after = barriers.barriers(subject(model, matched), to_mean=False)
    assert after.number == 0
    assert after.frame["barrier"].item() == pytest.approx(0, abs=1e-5)
    assert "averaging works" in why({"barriers": after})


def test_a_point_of_a_path_is_the_model_with_those_weights(subject) -> None:
    first, second = perceptron(0), perceptron(1)
    given = subject(first, second)
    paths = barriers.barriers(given, points=5).tables["paths"]
    for t in (0.0, 0.25, 1.0):
        weights = average([first.state_dict(), second.state_dict()], [1 - t, t])
        expected = given.score(fill(copy.deepcopy(first), weights))
        row = paths[(paths["second"] == "b") & (paths["t"] == t)].iloc[0]
        assert row["loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert row["accuracy"] == expected.accuracy
    to_mean = paths[(paths["end"] == "mean") & (paths["first"] == "a") & (paths["t"] == 1)]["loss"].item()
    middle = paths[(paths["second"] == "b") & (paths["t"] == 0.5)]["loss"].item()
    assert to_mean == pytest.approx(middle, rel=1e-5)


def test_batch_norms_anew_take_the_statistics_of_the_images(subject) -> None:
    models = [convolutional(0), convolutional(1)]
    given = subject(*models, side=6)
    paths = barriers.barriers(given, points=3, to_mean=False).tables["paths"]
    assert set(paths["norms"]) == {"kept", "anew"}
    anew = copy.deepcopy(models[1])
    use_batch_statistics(anew)
    row = paths[(paths["norms"] == "anew") & (paths["t"] == 1)].iloc[0]
    assert row["loss"] == pytest.approx(given.score(anew).loss, rel=1e-5)
    kept = paths[(paths["norms"] == "kept") & (paths["t"] == 1)].iloc[0]
    assert kept["loss"] == pytest.approx(given.score(models[1]).loss, rel=1e-5)


@pytest.mark.parametrize("anew", [False, True])
def test_points_together_have_the_scores_of_points_one_by_one(subject, anew) -> None:
    models = [convolutional(0), convolutional(1)]
    blends = Blends(subject(*models, side=6), [m.state_dict() for m in models], anew=anew)
    weights = [[1.0, 0.0], [0.3, 0.7], [-0.2, 1.2]]
    for one, other in zip(blends.scores(weights), blends.together(weights), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.accuracy == other.accuracy


def test_only_the_pairs_whose_heads_are_furthest_apart_are_followed(subject) -> None:
    models = [perceptron(seed) for seed in range(4)]
    found = barriers.barriers(subject(*models), points=3, pairs=2, to_mean=False)
    assert len(found.frame) == 2
    assert "4" in found.sentence  # of six pairs four were not measured
    with refused("2 points", "3"):
        barriers.barriers(subject(*models), points=2)


def test_the_corners_of_a_plane_are_the_models_and_its_mean_lies_in_it(subject) -> None:
    models = [perceptron(seed) for seed in range(3)]
    given = subject(*models)
    blended = {"half": ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0])}
    given = Subject.of(given.models, given.images, given.labels, blends=blended)
    found = landscape.landscape(given, grid=5)
    assert len(found.frame) == 25
    marks = found.tables["marks"].set_index("name")
    for name, model in given.models.items():
        assert marks.loc[name, "loss"] == pytest.approx(given.score(model).loss, rel=1e-5)
        assert marks.loc[name, "distance"] == pytest.approx(0, abs=1e-5)
    corners = marks.loc[["a", "b", "c"], ["x", "y"]]
    assert marks.loc["mean", ["x", "y"]].astype(float).tolist() == pytest.approx(corners.mean().tolist())
    assert marks.loc["half", ["x", "y"]].astype(float).tolist() == pytest.approx(corners[:2].mean().tolist())
    gaps = [
        (a.flatten() - b.flatten()).norm() for a, b in zip(*(m.parameters() for m in models[:2]), strict=True)
    ]
    assert marks.loc["b", "x"] == pytest.approx(torch.stack(gaps).norm().item(), rel=1e-5)


def test_three_models_on_a_line_span_no_plane(subject) -> None:
    ends = [perceptron(0), perceptron(1)]
    middle = fill(copy.deepcopy(ends[0]), average([m.state_dict() for m in ends]))
    with refused("line"):
        landscape.landscape(subject(*ends, middle))
    with refused("three", "2"):
        landscape.landscape(subject(*ends))


def test_a_row_with_a_logit_that_is_not_finite_is_wrong() -> None:
    logits = torch.tensor([[2.0, 1.0], [torch.inf, 0.0], [0.0, torch.nan]])
    found = score(logits, torch.tensor([0, 0, 0]))
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.finite == pytest.approx(1 / 3)
    assert answers(perceptron(0), pixels(300)).shape == (300, 3)
