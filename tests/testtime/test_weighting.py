from __future__ import annotations

import math

import torch

from fedmerge.seeding import generator
from fedmerge.testtime.scoring import image_scores
from fedmerge.testtime.weighting import Memory, Weighting, by_class
from tests.facts import refused

LOGITS = 2 * torch.randn(3, 6, 4, generator=generator(0, "test"))


def test_weights_of_a_batch_and_of_its_images() -> None:
    h = image_scores(LOGITS, "entropy")
    batch, image = (Weighting("entropy", order, True) for order in ("batch", "image"))
    expected = torch.softmax(-h.mean(dim=1) / 0.3, dim=0)
    torch.testing.assert_close(batch.weights(batch.scores(LOGITS), 0.3), expected)
    expected = torch.softmax(-h / 0.3, dim=0).mean(dim=1)
    torch.testing.assert_close(image.weights(image.scores(LOGITS), 0.3), expected)


def test_nats_are_log_c_times_the_normalised_score() -> None:
    raw, normalised = (Weighting("consensus", "batch", n).scores(LOGITS) for n in (False, True))
    torch.testing.assert_close(raw, normalised * math.log(4))


def test_coefficients_by_class_are_those_of_its_images() -> None:
    """With images that belong to one class each, class c is weighted by the images of c alone."""
    found, labels = image_scores(LOGITS, "entropy"), torch.tensor([0, 1, 1, 2, 3, 3])
    share = torch.nn.functional.one_hot(labels, 4).float()
    for c, column in enumerate(by_class(found, share, 0.2).T):
        expected = torch.softmax(-found[:, labels == c].mean(dim=1) / 0.2, dim=0)
        torch.testing.assert_close(column, expected)


def test_memory_averages_and_keeps_what_is_missing_now() -> None:
    memory = Memory(0.75)
    memory.update("a", torch.tensor([1.0, 2.0]))
    now = memory.update("a", torch.tensor([5.0, torch.nan]))
    assert now.tolist() == [0.75 * 1 + 0.25 * 5, 2.0]
    memory.reset()
    assert memory.update("a", torch.tensor([7.0])).tolist() == [7.0]


def test_unfit_options_are_sentences() -> None:
    with refused(1, "memory"):
        Memory(1.0)
    with refused("pixel", "batch"):
        Weighting("entropy", "pixel", True)
