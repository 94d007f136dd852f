"""Stream norms on one network, alone and under T3A and LAME."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import T3A, Lame, StreamNorms
from fedmerge.testtime.baselines.start import mean_merged
from fedmerge.testtime.options import Norms
from tests.facts import refused
from tests.testtime.grouped import adaptive


def test_learning_nothing_it_is_the_mean(models: list[nn.Module], batch: Tensor) -> None:
    for learn in ("before", "after"):
        node = StreamNorms(models, prior=math.inf, learn=learn)  # type: ignore[arg-type]
        node.observe(batch)
        torch.testing.assert_close(node.observe(batch)[0], mean_merged(models, "mixture")(batch))


def test_with_one_source_it_is_the_node_without_a_choice(models: list[nn.Module], batch: Tensor) -> None:
    """The node's source says classes by its own statistics, so on the first batch the two agree."""
    node = adaptive(models[:1], statistics="stream", prior=2.0)
    first = StreamNorms(models[:1], prior=2.0).observe(batch)[0]
    torch.testing.assert_close(first, node(batch), rtol=1e-4, atol=1e-4)


def test_after_is_one_pass_with_what_was_learned_before(models: list[nn.Module], batch: Tensor) -> None:
    """The first batch meets the sources' statistics; the second, what a pass over the first has taught."""
    late, soon = StreamNorms(models, learn="after"), StreamNorms(models)
    torch.testing.assert_close(late.observe(batch)[0], mean_merged(models, "mixture")(batch))
    soon.observe(batch)
    other = batch.flip(0) * 2
    for key, value in soon.stream.state().items():
        torch.testing.assert_close(late.stream.state()[key], value)
    late.observe(other)
    assert (late.forward_passes, soon.forward_passes) == (2, 2)
    assert not torch.equal(late.observe(batch)[0], mean_merged(models, "mixture")(batch))


def test_over_all_images_alike_the_moments_are_the_streams(models: list[nn.Module], batch: Tensor) -> None:
    """With next to no prior and no classes the norm's statistics are the batch's own, as in training mode."""
    node = StreamNorms(models[:1], prior=1e-6, by_class=False)
    mean = mean_merged(models[:1], "mixture")
    mean.norm.train()
    torch.testing.assert_close(node.observe(batch)[0], mean(batch), rtol=1e-3, atol=1e-3)


def test_t3a_and_lame_stand_on_norms_of_the_stream(models: list[nn.Module], batch: Tensor) -> None:
    """At an infinite prior nothing is learned and both are as they were, at one more pass a batch."""
    for method in (T3A, Lame):
        plain, still = method(models), method(models, norms=Norms("stream", prior=math.inf))
        moved = method(models, norms=Norms("stream", prior=1.0))
        torch.testing.assert_close(still.observe(batch)[0], plain.observe(batch)[0], rtol=1e-4, atol=1e-4)
        assert (plain.forward_passes, still.forward_passes) == (1, 2)
        assert not torch.allclose(moved.observe(batch)[0], plain.observe(batch)[0])


def test_a_network_without_batch_norm_is_refused(linear) -> None:
    with refused("stream-norms", "norm"):
        StreamNorms([linear(1.0, 1.0)])
