from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Rotta
from fedmerge.testtime.baselines.learning import learning
from fedmerge.testtime.baselines.memories import Memory, keep_sure_and_new
from fedmerge.testtime.baselines.rotta import RobustNorm
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused

IMAGE = torch.zeros(1, 1, 1)


def test_before_it_learns_it_is_the_mean(models: list[nn.Module], batch: Tensor) -> None:
    torch.testing.assert_close(
        Rotta(models).observe(batch)[0], mean_merged(models, "mixture")(batch), rtol=1e-4, atol=1e-5
    )


def test_the_memory_is_bounded_and_balanced_whatever_comes_first() -> None:
    memory = Memory(12)
    for label in [0] * 60 + [1] * 6 + [2] * 6:
        keep_sure_and_new(memory, IMAGE, label, 0.1, 3)
        assert len(memory.items) <= 12
        assert max(memory.held(3)) <= 4 or sum(memory.held(3)) < 12
    assert memory.held(3) == [4, 4, 4]


def test_in_a_full_class_a_sure_new_image_takes_the_place_of_the_worst() -> None:
    """Two places, two classes: one each. Scores: 1/2 + H / log 2 for a new one, more for an older one."""
    memory = Memory(2)
    keep_sure_and_new(memory, IMAGE, 0, 0.5, 2)
    keep_sure_and_new(memory, IMAGE + 1, 0, 0.1, 2)
    assert [(float(item[0]), item[3]) for item in memory.items] == [(1.0, 1)]
    score = 1 / (1 + math.exp(-1 / 2)) + 0.1 / math.log(2)
    worse = math.log(2) * (score - 0.5) + 0.01  # the entropy with which a new image scores as the kept one
    keep_sure_and_new(memory, IMAGE + 2, 0, worse, 2)
    assert [(float(item[0]), item[3]) for item in memory.items] == [(1.0, 2)]


def test_statistics_move_by_momentum_while_it_learns_only() -> None:
    norm = RobustNorm(nn.BatchNorm1d(1), 0.25)
    x = torch.tensor([[2.0], [4.0]])
    norm(x)
    assert norm.running_mean.item() == 0
    with learning(norm):
        found = norm(x)
    assert norm.running_mean.item() == pytest.approx(0.25 * 3)
    assert norm.running_var.item() == pytest.approx(0.75 + 0.25 * 1)
    torch.testing.assert_close(found, (x - 0.75) / math.sqrt(1.0 + norm.eps))


def test_teacher_and_student_learn_after_as_many_images_as_it_says(
    models: list[nn.Module], batch: Tensor
) -> None:
    """Two forward passes and one backward over a memory of four images, of batches of eight."""
    node = Rotta(models, capacity=4, every=16, nu=0.5)
    first = node.observe(batch)[0]
    weights = node.model.norm.weight.detach().clone()
    node.observe(batch)
    held = len(node.memory.items)
    assert (node.forward_passes, node.backward_passes) == (2 + 2 * held / 8, held / 8)
    student = node.student.norm.weight.detach()
    torch.testing.assert_close(node.model.norm.weight.detach(), (weights + student) / 2)
    assert not torch.equal(node.observe(batch)[0], first)
    node.reset()
    assert torch.equal(node.observe(batch)[0], first)


def test_it_goes_on_from_its_state_with_the_same_bits(models: list[nn.Module], batch: Tensor) -> None:
    node, other = Rotta(models, capacity=4, every=8), Rotta(models, capacity=4, every=8)
    node.observe(batch)
    node.observe(batch * 2)
    other.observe(batch)  # which also checks its copies
    other.load_state_dict(node.state_dict())
    for each in (batch.flip(0), batch - 1):
        assert torch.equal(node.observe(each)[0], other.observe(each)[0])


def test_unfit_options_and_models_are_sentences(models: list[nn.Module], linear) -> None:
    with refused("every", 0):
        Rotta(models, every=0)
    with refused("nu", 2.0):
        Rotta(models, nu=2.0)
    with refused("rotta", "shot"):
        Rotta([linear(1.0, 1.0)])
