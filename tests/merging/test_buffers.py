"""What a merge does not average, such as buffers: each member keeps its own, and a merge chooses none."""

from __future__ import annotations

import pytest
import torch

from fedmerge.merging import FUSION
from tests.facts import refused
from tests.merging.own_networks import MERGES, OWN, Net, fused, images


def test_members_of_an_ensemble_keep_their_own_buffers() -> None:
    """The mean of the two networks' own logits, each with its own input mean."""
    nets, (x, _) = [Net(0, 0.0), Net(1, 0.5)], images()
    expected = (nets[0](x) + nets[1](x)) / 2
    with_first_mean = (nets[0](x) + nets[1](x + 0.5)) / 2
    torch.testing.assert_close(fused(nets, "ensemble-logits")(x), expected)
    assert (expected - with_first_mean).abs().max() > 1e-3


def test_teachers_of_a_student_keep_their_own_buffers_and_it_those_of_the_first() -> None:
    student = fused([Net(0, 0.25), Net(1, 0.5)], "distill")
    assert student.mean == 0.25
    with refused("mean", "0.25", "model-0", "0.5", "model-1"):
        fused([Net(0, 0.25), Net(1, 0.5)], "distill", student="mean")


@pytest.mark.parametrize("method", [name for name in FUSION.names() if name not in OWN])
def test_a_merge_does_not_choose_what_it_does_not_average(method: str) -> None:
    nets = [Net(0, 0.0), Net(1, 0.5)]
    with refused("mean", "0.0", "model-0", "0.5", "model-1"):
        fused(nets, method)
    if method != "ensemble-greedy":
        assert fused(nets, method, into=Net(2, 0.125)).mean == 0.125  # who says what it shall be may merge


def test_integers_that_differ_are_refused_by_every_merge() -> None:
    nets = [Net(0), Net(1)]
    for number, net in enumerate(nets):
        net.register_buffer("table", torch.tensor([number]))
    for method in MERGES:
        if method not in OWN:
            with refused("table", "int64"):
                fused(nets, method, start=nets[0])


def test_the_model_to_be_made_says_what_integers_are() -> None:
    nets = [Net(0), Net(1), Net(2)]
    for number, net in enumerate(nets):
        net.register_buffer("table", torch.tensor([number]))
    for method in (name for name in MERGES if name not in OWN):
        assert fused(nets[:2], method, start=nets[0], into=nets[2]).table.tolist() == [2]
