"""Norms that learn from all images of a batch, also from those about which no source was asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.testtime import EntropyAdaptive, Norms, Probe
from fedmerge.testtime.stream_norms import Stream


def counts(node: EntropyAdaptive) -> float:
    """How many images the first norm has learned from: its classes' counts add up to it."""
    return float(next(iter(node.merged.stream.sums.values()))[0].sum())


def node_of(models: list[nn.Module], **norms: object) -> EntropyAdaptive:
    return EntropyAdaptive(models, norms=Norms("stream", **norms), probe=Probe(images=2))


def test_an_answer_rests_on_the_asked_and_what_follows_on_all(models: list[nn.Module], batch: Tensor) -> None:
    asked, everyone = node_of(models), node_of(models, learn="all")
    assert torch.equal(asked(batch), everyone(batch))
    assert (counts(asked), counts(everyone)) == (2, len(batch))
    assert not torch.equal(asked(batch), everyone(batch))
    assert asked.forward_passes == everyone.forward_passes


def test_without_a_probe_all_are_asked_and_it_changes_nothing(models: list[nn.Module], batch: Tensor) -> None:
    pair = [EntropyAdaptive(models, norms=Norms("stream", learn=learn)) for learn in ("asked", "all")]
    for _ in range(2):
        first, second = (node(batch) for node in pair)
        assert torch.equal(first, second)


def test_where_no_source_is_asked_all_are_learned_from_after_the_answer(
    models: list[nn.Module], batch: Tensor
) -> None:
    node = EntropyAdaptive(models, norms=Norms("stream", learn="all"), probe=Probe(every=2))
    node(batch)
    node(batch)
    assert counts(node) == 2 * len(batch)


def test_the_others_add_their_own_moments_by_their_own_classes() -> None:
    """Images 1 and 3 of four were not learned from; z of the images is 0, 1, 2, 3."""
    stream = Stream(1.0)
    stream.noted = {"norm": (torch.arange(4.0)[:, None], torch.arange(4.0)[:, None] ** 2)}
    p = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0]])
    stream.learn_others(p, torch.tensor([0, 2]))
    n, s, t = stream.sums["norm"]
    assert n.tolist() == [1.25, 0.75]
    assert s[:, 0].tolist() == [0.25 * 1 + 3, 0.75 * 1]
    assert t[:, 0].tolist() == [0.25 * 1 + 9, 0.75 * 1]
