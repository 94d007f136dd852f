from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmerge.seeding import Draws
from fedmerge.training import InMergeOptions, Segment, TrainingDiverged, TrainingOptions, fit
from fedmerge.training.local import batch_sizes
from tests.facts import refused

Data = tuple[Tensor, Tensor]
Maker = Callable[[], nn.Module]


def half(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def zero_linear(classes: int) -> nn.Sequential:
    """A linear classifier of 6 x 6 images with all weights zero: every logit is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_it_learns_to_tell_dark_from_bright(small_network: nn.Module, dark_and_bright: Data) -> None:
    options = TrainingOptions(lr=0.1, batch_size=8, epochs=8)
    result = fit(small_network, *dark_and_bright, options, normalise=half, draws=Draws(0))
    assert result.losses[-1] < result.losses[0] / 2
    assert result.accuracies[-1] == 1.0
    assert (result.steps, result.examples, len(result.losses), result.merges) == (40, 320, 8, {})
    assert result.seconds > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_bits(
    make_network: Maker, dark_and_bright: Data, optimizer: Any
) -> None:
    """With all that draws: order, augmentation, dropout and InMerge; the global state is left alone."""
    options = TrainingOptions(
        optimizer=optimizer,
        lr=0.01,
        batch_size=8,
        epochs=2,
        augment=("flip", "shift", "rotate"),
        inmerge=InMergeOptions(skip=0, tau=-1, p=0.5),
    )

    def run(**key: Any) -> tuple[list[Tensor], Any]:
        model = make_network()
        result = fit(model, *dark_and_bright, options, normalise=half, draws=Draws(**key))
        return list(model.state_dict().values()), (result.losses, result.accuracies, result.merges)

    before = torch.random.get_rng_state()
    weights, outcome = run(seed=1, site="a", round=2)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again, same_outcome = run(seed=1, site="a", round=2)
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    assert outcome == same_outcome
    for other in (
        {"seed": 2, "site": "a", "round": 2},
        {"seed": 1, "site": "b", "round": 2},
        {"seed": 1, "site": "a"},
    ):
        assert outcome != run(**other)[1]


def test_an_untrained_classifier_scores_what_it_must(dark_and_bright: Data) -> None:
    """Zero logits: the one batch has loss log 3, and class 0 (the first of equals) is right for half."""
    options = TrainingOptions(batch_size=40)
    result = fit(zero_linear(3), *dark_and_bright, options, normalise=half, draws=Draws(0))
    assert result.losses == pytest.approx((math.log(3),))
    assert result.accuracies == (0.5,)


def test_an_epoch_loss_is_the_mean_over_images(dark_and_bright: Data) -> None:
    """A frozen linear model has one loss per image, so batches of 16, 16 and 8 must average to their mean."""
    images, labels = dark_and_bright
    model = zero_linear(2)
    model[1].weight.data = torch.linspace(-1, 1, 72).view(2, 36)
    expected = nn.functional.cross_entropy(model(half(images)), labels).item()
    options = TrainingOptions(batch_size=16, lr=1e-12, weight_decay=0)
    assert fit(model, images, labels, options, normalise=half, draws=Draws(0)).losses == pytest.approx(
        (expected,)
    )


@pytest.mark.parametrize(("span", "rate"), [((0.0, 1.0), 1.0), ((0.5, 1.0), 0.5), ((2 / 3, 1.0), 0.25)])
def test_span_sets_the_learning_rate(dark_and_bright: Data, span: tuple[float, float], rate: float) -> None:
    """One full-batch step moves the bias by -lr factor(t) times its gradient, softmax - share of the class.

    With three zero logits and no image of class 2 that gradient is 1/3 for class 2; the cosine at 0, 1/2
    and 2/3 is 1, 1/2 and 1/4.
    """
    model = zero_linear(3)
    options = TrainingOptions(lr=0.3, batch_size=40, weight_decay=0)
    fit(model, *dark_and_bright, options, normalise=half, draws=Draws(0), segment=Segment(span))
    assert model[1].bias[2].item() == pytest.approx(-0.3 * rate / 3)


@given(count=st.integers(1, 200), batch_size=st.integers(1, 70))
def test_batches_hold_every_image_and_none_is_alone(count: int, batch_size: int) -> None:
    sizes = batch_sizes(count, batch_size)
    assert sum(sizes) == count
    assert max(sizes) <= batch_size + 1
    if count > 1 and batch_size > 1:
        assert min(sizes) > 1


def test_a_trailing_single_image_is_trained_with_batch_norm(dark_and_bright: Data) -> None:
    """Nine images of 1 x 1 in batches of 4: a batch of one would be refused by batch norm."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    images, labels = dark_and_bright
    options = TrainingOptions(batch_size=4)
    result = fit(model, images[:9], labels[:9], options, normalise=half, draws=Draws(0))
    assert (result.steps, result.examples) == (2, 9)


def test_inmerge_follows_every_step(small_network: nn.Module, dark_and_bright: Data) -> None:
    """Two epochs of five batches, all 6 and all 8 filters each time."""
    options = TrainingOptions(batch_size=8, epochs=2, inmerge=InMergeOptions(skip=0, tau=-1.01, p=1))
    result = fit(small_network, *dark_and_bright, options, normalise=half, draws=Draws(0))
    assert result.merges == {"0": 60, "3": 80}


def test_modes_come_back_and_progress_is_told(small_network: nn.Module, dark_and_bright: Data) -> None:
    small_network.train()
    small_network[1].eval()
    told: list[tuple[int, int]] = []
    fit(
        small_network,
        *dark_and_bright,
        TrainingOptions(batch_size=20, epochs=2),
        normalise=half,
        draws=Draws(0),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert small_network.training
    assert small_network[0].training
    assert not small_network[1].training


def test_a_loss_that_is_not_finite_names_site_epoch_and_step(dark_and_bright: Data) -> None:
    """Two batches an epoch; the fourth batch is made NaN, so that is epoch 2, step 2."""
    calls = []

    def spoiled(images: Tensor) -> Tensor:
        calls.append(1)
        return half(images) * (math.nan if len(calls) == 4 else 1)

    model = zero_linear(2).eval()
    options = TrainingOptions(batch_size=20, epochs=3, lr=1e-3)
    with refused("north", "epoch", "2", kind=TrainingDiverged):
        fit(model, *dark_and_bright, options, normalise=spoiled, draws=Draws(0, site="north"))
    assert not model.training


@pytest.mark.parametrize(
    ("count", "batch_size", "sentence"),
    [
        (0, 8, ("'x'", "training", "some")),
        (
            12,
            64,
            ("'x'", 12, "images", "fewer", "training.batch_size", 64),
        ),
        (12, 1, ("training.batch_size", 2)),
        (1, 8, ("2 images", "'x'")),
    ],
)
def test_too_few_images_are_a_sentence(
    small_network: nn.Module, dark_and_bright: Data, count: int, batch_size: int, sentence: tuple[object, ...]
) -> None:
    images, labels = dark_and_bright
    options = TrainingOptions(batch_size=batch_size)
    with refused(*sentence):
        fit(small_network, images[:count], labels[:count], options, normalise=half, draws=Draws(0, site="x"))


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64), ("uint8", "torch.float32", "N", "give")),
        (torch.zeros(4, 6, 6, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("N", "C", "H", "W")),
        (
            torch.zeros(4, 1, 6, 6, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            ("integer", "4 images", "torch.int64"),
        ),
        (
            torch.zeros(4, 1, 6, 6, dtype=torch.uint8),
            torch.zeros(4),
            ("integer", "4 images", "torch.float32"),
        ),
        (
            torch.zeros(4, 1, 6, 6, dtype=torch.uint8),
            torch.tensor([0, 1, -1, 0]),
            ("-1", "label"),
        ),
        (
            torch.zeros(4, 1, 6, 6, dtype=torch.uint8),
            torch.tensor([0, 1, 2, 0]),
            ("2 classes", "label"),
        ),
    ],
)
def test_unusable_data_are_a_sentence(images: Tensor, labels: Tensor, sentence: tuple[object, ...]) -> None:
    with refused(*sentence):
        fit(zero_linear(2), images, labels, TrainingOptions(batch_size=2), normalise=half, draws=Draws(0))


def test_a_frozen_model_is_a_sentence(dark_and_bright: Data) -> None:
    model = zero_linear(2).requires_grad_(False)
    with refused("trainable", "requires_grad"):
        fit(model, *dark_and_bright, TrainingOptions(batch_size=8), normalise=half, draws=Draws(0))
