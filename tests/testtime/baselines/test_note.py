from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Note
from fedmerge.testtime.baselines.learning import learning
from fedmerge.testtime.baselines.memories import Memory, keep_balanced
from fedmerge.testtime.baselines.note import InstanceAwareNorm, soft_shrink
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_soft_shrinkage_by_hand() -> None:
    found = soft_shrink(torch.tensor([-3.0, -1.0, 0.5, 2.0]), torch.tensor(1.0))
    torch.testing.assert_close(found, torch.tensor([-2.0, 0.0, 0.0, 1.0]))


def test_an_image_is_corrected_beyond_k_standard_errors_by_hand() -> None:
    """Statistics 0 and 1; values 2, 4 of one channel: mean 3, variance 2 (L = 2), k = 1.

    mean: 3 - 1 / sqrt(2); variance: 1 + max(2 - 1 - sqrt(2), 0) = 1.
    """
    norm = InstanceAwareNorm(nn.BatchNorm1d(1, eps=1e-12), k=1.0, momentum=0.0)
    found = norm(torch.tensor([[[2.0, 4.0]]]))
    mean = 3 - 1 / math.sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[[2 - mean, 4 - mean]]]))


def test_for_large_k_it_is_the_running_statistics(models: list[nn.Module], batch: Tensor) -> None:
    found = Note(models, k=1e9).observe(batch)[0]
    torch.testing.assert_close(found, mean_merged(models, "mixture")(batch), rtol=1e-4, atol=1e-4)


def test_for_no_k_each_image_is_normalised_by_itself(models: list[nn.Module], batch: Tensor) -> None:
    """So gain and offset of an image are undone."""
    node = Note(models, k=0.0)
    torch.testing.assert_close(node.observe(3 * batch)[0], node.observe(batch)[0], rtol=1e-3, atol=1e-3)


def test_an_image_is_answered_alike_in_every_batch(models: list[nn.Module], batch: Tensor) -> None:
    """Before an update, which comes after 64 images."""
    whole = Note(models).observe(batch)[0]
    torch.testing.assert_close(Note(models).observe(batch[3:4])[0], whole[3:4], rtol=1e-4, atol=1e-5)


def test_statistics_move_by_momentum_while_it_learns_only() -> None:
    norm = InstanceAwareNorm(nn.BatchNorm1d(1), k=4.0, momentum=0.25)
    x = torch.tensor([[[2.0, 4.0]], [[6.0, 8.0]]])
    norm(x)
    assert norm.running_mean.item() == 0
    with learning(norm):
        norm(x)
    assert norm.running_mean.item() == pytest.approx(0.25 * 5)
    assert norm.running_var.item() == pytest.approx(0.75 + 0.25 * 20 / 3)


def test_the_reservoir_is_bounded_and_balanced_whatever_comes_first() -> None:
    """Eighty images of class 0, then four of each of the others: all of those are kept."""
    memory = Memory(12)
    for label in [0] * 80 + [1] * 4 + [2] * 4:
        keep_balanced(memory, torch.zeros(1, 1, 1), label, 3, seed=0)
        assert len(memory.items) <= 12
    assert memory.held(3) == [4, 4, 4]
    assert memory.counts == [80, 4, 4]


def test_of_one_class_it_is_reservoir_sampling() -> None:
    """Of 200 images 20 are kept; over 40 seeds each half of the stream has about as many."""
    early = 0
    for seed in range(40):
        memory = Memory(20)
        for number in range(200):
            keep_balanced(memory, torch.full((1, 1, 1), float(number)), 0, 2, seed)
        early += sum(float(item[0]) < 100 for item in memory.items)
    assert early == pytest.approx(400, abs=60)  # 4 standard deviations


def test_it_learns_after_as_many_images_as_it_says_and_counts_the_pass(
    models: list[nn.Module], batch: Tensor
) -> None:
    node = Note(models, capacity=4, every=16)
    first = node.observe(batch)[0]
    assert (node.forward_passes, node.backward_passes) == (1, 0)
    node.observe(batch)
    assert (node.forward_passes, node.backward_passes) == (2 + 4 / 8, 4 / 8)
    assert not torch.equal(node.observe(batch)[0], first)
    node.reset()
    assert torch.equal(node.observe(batch)[0], first)


def test_unfit_options_and_models_are_sentences(models: list[nn.Module], linear) -> None:
    with refused("capacity", 2):
        Note(models, capacity=1)
    with refused("momentum", 1.5):
        Note(models, momentum=1.5)
    with refused("note", "norm"):
        Note([linear(1.0, 1.0)])
