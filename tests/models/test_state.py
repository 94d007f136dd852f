from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmerge.models.state import State, average, check_alike, non_finite, running_pairs, state_hash
from tests.facts import refused

values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4)
positive = st.floats(0.01, 100)


def batch_norm(mean: Tensor, var: Tensor, batches: int = 0) -> State:
    return {"bn.running_mean": mean, "bn.running_var": var, "bn.num_batches_tracked": torch.tensor(batches)}


@given(st.lists(st.tuples(values, positive), min_size=1, max_size=6))
def test_average_is_the_weighted_mean(models: list[tuple[list[float], float]]) -> None:
    """sum a_m theta_m / sum a_m, in Python's own double precision."""
    weights = [weight for _, weight in models]
    expected = [sum(w * v[i] for v, w in models) / sum(weights) for i in range(4)]
    out = average([{"w": torch.tensor(v)} for v, _ in models], weights)["w"]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@given(values, st.lists(positive, min_size=1, max_size=7), st.sampled_from(["average", "mixture", "first"]))
def test_average_of_a_model_with_itself_is_that_model_bit_for_bit(
    entries: list[float], weights: list[float], policy: str
) -> None:
    """Means far larger than the variance are the hard case: v + m^2 - m^2 would lose the digits of v."""
    mean = torch.tensor(entries)
    state = {"w": torch.tensor([*entries, -0.0, 1e-40, 3e38])} | batch_norm(mean, mean.abs() * 1e-6 + 1e-3)
    for given_weights in (None, weights):
        out = average([state] * len(weights), given_weights, batch_norm=policy)  # type: ignore[arg-type]
        assert state_hash(out) == state_hash(state)


@given(st.lists(st.tuples(values, positive), min_size=2, max_size=6), st.randoms())
def test_order_of_models_does_not_matter(models: list[tuple[list[float], float]], random) -> None:  # type: ignore[no-untyped-def]
    def merged(order: list[tuple[list[float], float]]) -> State:
        states = [batch_norm(torch.tensor(v), torch.tensor(v).abs()) for v, _ in order]
        return average(states, [w for _, w in order])

    shuffled = random.sample(models, len(models))
    for key, value in merged(models).items():
        torch.testing.assert_close(merged(shuffled)[key], value, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("sizes", [(50, 50, 50), (10, 40, 200)])
def test_mixture_gives_the_moments_of_the_pooled_samples(sizes: tuple[int, ...]) -> None:
    """Law of total variance: weighted by their sizes, parts have the moments of their concatenation."""
    draws = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 3, generator=draws) * (i + 1) + 5 * i for i, n in enumerate(sizes)]
    states = [batch_norm(part.mean(0), part.var(0, correction=0)) for part in parts]
    out = average(states, sizes, batch_norm="mixture")
    pooled = torch.cat(parts)
    torch.testing.assert_close(out["bn.running_mean"], pooled.mean(0))
    torch.testing.assert_close(out["bn.running_var"], pooled.var(0, correction=0))


def test_the_three_batch_norm_policies_differ_as_they_say() -> None:
    """Means 0 and 2, variances 1 and 3: average 1 and 2; mixture 1 and 2 + 1 (the means' own variance)."""
    states = [
        batch_norm(torch.tensor([0.0]), torch.tensor([1.0]), batches=7),
        batch_norm(torch.tensor([2.0]), torch.tensor([3.0]), batches=9),
    ]
    expected = {"average": (1.0, 2.0), "mixture": (1.0, 3.0), "first": (0.0, 1.0)}
    for policy, (mean, var) in expected.items():
        out = average(states, batch_norm=policy)  # type: ignore[arg-type]
        assert (out["bn.running_mean"].item(), out["bn.running_var"].item()) == (mean, var)
        assert out["bn.num_batches_tracked"].item() == 7


def test_mixture_variance_does_not_fall_below_zero() -> None:
    """Weights 2 and -1, means 0 and 1, variances 0: 2 * 0 - 1 * 1 - (-1)^2 = -2."""
    zero = torch.zeros(1)
    states = [batch_norm(zero, zero), batch_norm(zero + 1, zero)]
    assert average(states, [2.0, -1.0])["bn.running_var"].item() == 0.0


def test_weights_are_divided_by_their_sum_and_zero_leaves_a_model_out() -> None:
    """2 * 3 - 1 * 1 over 2 - 1 is 5; the third model, of weight zero, holds a NaN that must not spread."""
    states = [{"w": torch.tensor([value])} for value in (3.0, 1.0, float("nan"))]
    assert average(states, [4.0, -2.0, 0.0])["w"].item() == 5.0


def test_long_entries_are_summed_whole() -> None:
    """100,001 entries take several pieces; the mean of x and 3 x is 2 x."""
    x = torch.arange(100_001, dtype=torch.float32)
    out = average([{"w": x.view(1, -1)}, {"w": 3 * x.view(1, -1)}])["w"]
    assert torch.equal(out, 2 * x.view(1, -1))


def test_results_share_no_memory_and_keep_dtypes() -> None:
    first = {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3), "flag": torch.tensor([True])}
    out = average([first])
    for value in out.values():
        value.zero_()
    assert [value.dtype for value in out.values()] == [torch.bfloat16, torch.int64, torch.bool]
    assert first["w"].sum() == 2
    assert first["n"] == 3
    assert first["flag"].all()


def test_layouts_other_than_row_major_are_summed_in_place() -> None:
    weight = torch.arange(24.0).view(1, 2, 3, 4)
    out = average([{"w": weight.to(memory_format=torch.channels_last)}, {"w": 3 * weight}])["w"]
    assert torch.equal(out, 2 * weight)


def test_one_state_is_held_at_a_time() -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def states() -> Iterator[State]:
        for value in range(4):
            assert all(ref() is None for ref in earlier), "an earlier state is still in memory"
            state = {"w": torch.full((3,), float(value))}
            earlier.append(weakref.ref(state["w"]))
            yield state
            del state

    assert torch.equal(average(states())["w"], torch.full((3,), 1.5))
    assert len(earlier) == 4


def test_weights_that_cannot_be_used_are_refused() -> None:
    states = [{"w": torch.ones(1)}] * 2
    for weights in ([1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with refused("finite", "sum", "zero"):
            average(states, weights)
    with refused(1, "more", "weights"):
        average(states, [1.0])
    with refused("2 models", "3 weights"):
        average(states, [1.0, 1.0, 1.0])
    with refused("average", "model"):
        average([])


def test_models_that_differ_are_named_with_key_and_shapes() -> None:
    ones = {"w": torch.ones(2, 3)}
    with refused("'w'", 2, 3, "north", "south"):
        check_alike(["north", "south"], [ones, {"w": torch.ones(3, 3)}])
    with refused("south", "'b'", "north"):
        check_alike(["north", "south"], [ones, ones | {"b": torch.ones(1)}])
    with refused("torch.float32", "north", "torch.float16", "south"):
        check_alike(["north", "south"], [ones, {"w": torch.ones(2, 3).half()}])
    with refused("model 1", "'w'", "model 2"):
        average([ones, {"w": torch.ones(1)}])
    check_alike(["north", "south"], [ones, {"w": torch.zeros(2, 3)}])


def test_hash_sees_names_values_shapes_and_dtypes_but_not_order() -> None:
    state = {"a": torch.zeros(2, 2), "b": torch.tensor(1)}
    assert state_hash(dict(reversed(state.items()))) == state_hash(state)
    others = [
        state | {"a": torch.tensor([[0.0, 0.0], [0.0, 1e-45]])},
        state | {"a": torch.zeros(4, 1)},
        state | {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"c": state["a"], "b": state["b"]},
    ]
    assert len({state_hash(other) for other in [state, *others]}) == 5


def test_hash_does_not_depend_on_the_layout_in_memory() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    assert state_hash({"a": matrix.t().contiguous().t()}) == state_hash({"a": matrix})


def test_non_finite_names_the_entries() -> None:
    state = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(1), "n": torch.tensor(1)}
    assert non_finite(state | {"c": torch.tensor(float("-inf"))}) == ["a", "c"]


def test_running_pairs_are_found_by_prefix() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(2)))
    assert running_pairs(network.state_dict()) == [
        ("1.running_mean", "1.running_var"),
        ("2.0.running_mean", "2.0.running_var"),
    ]
    assert running_pairs(nn.BatchNorm2d(2).state_dict()) == [("running_mean", "running_var")]
    assert running_pairs(["lonely.running_mean"]) == []


def test_weights_and_policies_that_mean_nothing_are_refused() -> None:
    states = [{"w": torch.ones(1)}, {"w": torch.zeros(1)}]
    for weights in ([1e308, 1e308], [float("inf"), float("-inf")]):  # sums beyond a float, and none at all
        with refused("weights", "finite"):
            average(states, weights)
    with refused("mixtur", "mixture", "average", "first"):
        average(states, batch_norm="mixtur")  # type: ignore[arg-type]
