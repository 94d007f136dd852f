"""Magnification, templates, filters and the dynamics of in-model merging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facts import refused
from networks_of_diagnosis import convolutional, perceptron, pixels
from torch import nn

from fedmerge.analysis.diagnosis import Subject, dynamics, filters, magnification, templates
from fedmerge.analysis.diagnosis.contract import answers
from fedmerge.analysis.filters import pair_cosines
from fedmerge.models.inputs import Normalisation


@pytest.mark.parametrize("factor", [0.01, 0.5, 7.0, 200.0])
def test_a_relu_network_without_biases_answers_c_to_the_depth_times_as_much(factor) -> None:
    model, x = perceptron(0, bias=False), pixels(10).double()
    keys = magnification.entries_of(model, "all")
    larger = answers(magnification.magnified(model, factor, keys, torch.float64), x)
    torch.testing.assert_close(larger, factor**2 * answers(model.double(), x), rtol=1e-12, atol=0)
    assert all(value.dtype == torch.float64 for value in model.parameters())


def test_without_overflow_no_factor_changes_a_class_and_float32_ends_where_it_must(subject) -> None:
    """Two layers: 1e20 squared is 1e40, over float32's 3.4e38, and far below float64's 1.8e308."""
    models = [perceptron(seed, bias=False) for seed in range(2)]
    frame = magnification.magnification(subject(*models), factors=(0.01, 1.0, 1e20)).frame
    exact = frame[frame["precision"] == "exact"].groupby("who")["accuracy"]
    assert (exact.nunique() == 1).all()
    over = frame[(frame["precision"] == "float32") & (frame["factor"] == 1e20)]
    assert (over["finite"] < 1).all()
    assert (frame[frame["factor"] < 1e20]["finite"] == 1).all()


def test_the_bounds_of_a_mean_hold_and_weights_alone_leave_biases_and_norms() -> None:
    found = magnification.magnification(
        Subject.of({"a": perceptron(0), "b": perceptron(1)}, pixels(8), torch.zeros(8).long()),
        factors=(1.0, 2.0),
    )
    assert found.tables["bounds"]["held"].all()
    assert "nothing overflows" in found.sentence
    assert magnification.entries_of(convolutional(0), "weights") == ["0.weight", "4.weight"]
    with refused("above zero"):
        magnification.magnification(Subject.of({"a": perceptron(0), "b": perceptron(1)}), factors=(0.0,))


def test_a_linear_classifier_ends_where_its_gradient_is_zero() -> None:
    """w_c = (1 / decay) mean (1[y = c] - p_c) x."""
    x = pixels(40).flatten(1).double()
    y = torch.arange(40) % 3
    weights = templates.fitted(x, y, 3, 0.1, 500)
    gap = nn.functional.one_hot(y, 3).double() - (x @ weights.T).softmax(1)
    torch.testing.assert_close(weights, gap.T @ x / 40 / 0.1, atol=1e-5, rtol=1e-5)


def test_templates_look_like_the_means_of_classes_that_are_apart() -> None:
    """Class c has one bright pixel, c of four; the others are dark."""
    labels = torch.arange(80) % 4
    images = nn.functional.one_hot(labels, 4).float().view(80, 1, 2, 2)
    labels = labels.clamp(max=2)
    found = templates.templates(Subject.of({"a": perceptron(0), "b": perceptron(1)}, images, labels))
    assert found.number > 0.95
    assert found.frame["images"].tolist() == [20, 20, 40]
    assert found.arrays["weights"].shape == (3, 1, 2, 2)
    assert found.tables["kernels"].empty  # no convolution


def test_a_filter_that_stands_twice_makes_its_maps_redundant(subject) -> None:
    model = convolutional(0)
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:1].expand(4, -1, -1, -1))
    assert filters.redundancy(model, pixels(12, 6)) == {"0": pytest.approx(1)}
    found = filters.filters(subject(model, model, side=6))
    assert found.frame["rank"].tolist() == pytest.approx([1, 1, 1])
    assert found.number == 1
    assert "pairs to merge" in found.sentence


def test_the_threshold_is_exceeded_by_a_tenth_of_the_pairs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 20, 3))
    cosines = pair_cosines(model[0].weight)
    assert (cosines > dynamics.threshold(model, 0.9)).float().mean() == pytest.approx(0.1, abs=0.011)
    with refused("convolution"):
        dynamics.threshold(perceptron(0))


def test_in_model_merging_has_a_control_and_merges_something() -> None:
    models = {"a": convolutional(0), "b": convolutional(1)}
    raw = torch.randint(0, 256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    half = Normalisation.named("half")
    given = Subject.of(models, half(raw), torch.arange(40) % 3, raw=raw, normalise=half)
    found = dynamics.inmerge(given, epochs=1, tau=-1.5)
    assert set(found.tables["merges"]["run"]) == {"with", "random"} or found.tables["merges"].empty
    assert set(found.frame.columns) >= {"run", "layer", "merges"}
    before = [value.clone() for value in models["a"].parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, models["a"].parameters(), strict=True))
    with refused("uint8"):
        dynamics.inmerge(Subject.of(models, half(raw), torch.arange(40) % 3))


def test_arrays_are_of_the_images_shape(subject) -> None:
    found = templates.templates(subject(convolutional(0), convolutional(1), side=6))
    assert found.arrays["kernels"].shape == (3, 4, 1, 3, 3)
    mean = found.arrays["kernels"][:2].mean(0)
    np.testing.assert_allclose(found.arrays["kernels"][2], mean, rtol=1e-6)
