import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge import seeding
from tests.facts import refused

keys = st.tuples(
    st.integers(0, 99), st.sampled_from(["train", "init"]), st.integers(0, 5), st.sampled_from("ab")
)


@given(keys, keys)
def test_two_purposes_share_a_stream_only_if_they_are_the_same(one, other):
    assert (seeding.derive(*one) == seeding.derive(*other)) == (one == other)


def test_a_site_s_name_cannot_pass_for_a_round():
    assert seeding.derive(0, "train", 1, "2") != seeding.derive(0, "train", 12, "")


def test_generators_repeat():
    first, second = (torch.rand(4, generator=seeding.generator(3, "x", 1, "s")) for _ in range(2))
    assert first.equal(second)
    assert (seeding.numpy_generator(3, "x").random(4) == seeding.numpy_generator(3, "x").random(4)).all()


def test_seeded_restores_the_global_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeding.seeded(1, "init"):
        inside = torch.rand(3)
    assert torch.rand(3).equal(expected)
    with seeding.seeded(1, "init"):
        assert torch.rand(3).equal(inside)


@pytest.mark.parametrize("seed", [1.5, "a", None, float("nan"), float("inf"), torch.zeros(2)])
def test_a_seed_is_a_whole_number(seed):
    """Rounded, two seeds would be one."""
    with refused("seed", "whole number"):
        seeding.derive(seed, "train")
    assert (
        seeding.derive(2.0, "train") == seeding.derive(torch.tensor(2), "train") == seeding.derive(2, "train")
    )
