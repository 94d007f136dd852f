"""What holds for every method that averages or counts votes, checked one method at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmerge.merging import FUSION, fisher, merge, model_stock, task_vectors  # noqa: F401
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.models.state import State, state_hash
from tests.facts import refused

ENSEMBLES = ["ensemble-logits", "ensemble-probabilities", "ensemble-features", "ensemble-greedy"]
SOUPS = ["greedy", "greedy-v1", "greedy-v2"]
VECTORS = ["task-arithmetic", "ties", "dare", "model-stock"]
NETWORKS = ["mean", *SOUPS, *VECTORS, "fisher"]
EVERY = [*NETWORKS, *ENSEMBLES]
BY_POSITION = ["greedy-v1", "greedy-v2", "ensemble-greedy"]  # the place in the pool is part of the method

# With these options a method that moves from a start is a mean where all three models are one.
AS_MEAN: dict[str, dict[str, Any]] = {
    "task-arithmetic": {"scale": 1 / 3},
    "dare": {"drop": 0.0, "scale": 1 / 3},
    "ties": {"keep": 1.0},
}


def network(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Linear, batch norm with statistics and a counter of its own, linear; every entry differs by seed."""
    draws = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    state = {
        key: torch.rand(value.shape, generator=draws) + 0.1 if value.is_floating_point() else value + seed
        for key, value in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net.to(dtype).eval()


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(99)).to(dtype)


def score(state: State) -> float:
    return float(state["1.weight"].double().sum())


def fuse(method: str, models: list[nn.Module], names: list[str] | None = None, **options: object) -> Merged:
    data = images(models[0][1].weight.dtype)  # type: ignore[index]
    start = network(1000, data.dtype).state_dict()
    context = Context(score=score, example=data[:2], data=data, start=start)
    before = torch.get_rng_state()
    merged = FUSION[method].call(Parents.of(models, names), context, **FUSION[method].check(options))
    assert torch.get_rng_state().equal(before), "the global generator was used"
    return merged


def floats(model: nn.Module) -> State:
    return {key: value for key, value in model.state_dict().items() if value.is_floating_point()}


@pytest.mark.parametrize("method", [m for m in EVERY if m not in BY_POSITION])
def test_permuting_models_permutes_coefficients(method: str) -> None:
    """And leaves every bit of a fused network as it is; an ensemble adds its votes in float32, in order."""
    models, names = [network(seed) for seed in range(3)], ["a", "b", "c"]
    first = fuse(method, models, names)
    for order in itertools.permutations(range(3)):
        merged = fuse(method, [models[i] for i in order], [names[i] for i in order])
        assert merged.coefficients == pytest.approx(first.coefficients)
        if method in NETWORKS:
            assert state_hash(floats(merged.model)) == state_hash(floats(first.model))
        else:
            torch.testing.assert_close(merged.model(images()), first.model(images()))


@settings(max_examples=15)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=6),
    st.lists(st.floats(0.01, 100), min_size=6, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_mean_of_any_models_has_one_result(
    numbers: list[float], weights: list[float], random: Any
) -> None:
    """Scaled copies of one network, with weights, in two orders: the same bits, float64 as well."""
    models = []
    for number in numbers:
        models.append(network(0, torch.float64))
        with torch.no_grad():
            models[-1][1].weight.mul_(number)  # type: ignore[index, operator]
    order = random.sample(range(len(models)), len(models))
    for method in ("mean", "fisher"):
        given = fuse(method, models, weights=weights[: len(models)])
        permuted = fuse(method, [models[i] for i in order], weights=[weights[i] for i in order])
        assert state_hash(floats(given.model)) == state_hash(floats(permuted.model))


@pytest.mark.parametrize("method", EVERY)
def test_a_model_with_itself_is_itself(method: str) -> None:
    model = network(3)
    merged = fuse(method, [model] * 3, **AS_MEAN.get(method, {}))
    probabilities = merged.model(images()).softmax(1)
    torch.testing.assert_close(probabilities, model(images()).softmax(1))
    if method in NETWORKS:
        assert state_hash(merged.model.state_dict()) == state_hash(model.state_dict())


@pytest.mark.parametrize("method", [m for m in EVERY if m not in ("task-arithmetic", "dare", "ties")])
def test_a_model_alone_is_itself(method: str) -> None:
    model = network(3)
    merged = fuse(method, [model])
    assert list(merged.coefficients.values()) == [1.0]
    torch.testing.assert_close(merged.model(images()).softmax(1), model(images()).softmax(1))
    if method in NETWORKS:
        assert state_hash(merged.model.state_dict()) == state_hash(model.state_dict())


@pytest.mark.parametrize("method", [m for m in NETWORKS if m not in SOUPS])
def test_counters_come_from_the_first_model(method: str) -> None:
    """The counters are 5, 2 and 7, and int64."""
    state = fuse(method, [network(5), network(2), network(7)]).model.state_dict()
    assert state["2.num_batches_tracked"].dtype == torch.int64
    assert state["2.num_batches_tracked"].item() == 5


@pytest.mark.parametrize("method", SOUPS)
def test_counters_of_a_soup_come_from_its_first_member(method: str) -> None:
    models = [network(seed) for seed in (5, 2, 7)]
    merged = fuse(method, models)
    start = next(d["model"] for d in merged.decisions)
    expected = models[int(start.removeprefix("model-"))][2].num_batches_tracked  # type: ignore[index]
    assert merged.model.state_dict()["2.num_batches_tracked"].equal(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", NETWORKS)
def test_dtypes_survive(method: str, dtype: torch.dtype) -> None:
    merged = fuse(method, [network(seed, dtype) for seed in range(3)])
    assert {value.dtype for value in floats(merged.model).values()} == {dtype}


@pytest.mark.parametrize("method", EVERY)
def test_inputs_stay_as_they_were_and_share_nothing_with_the_result(method: str) -> None:
    models = [network(seed) for seed in range(3)]
    before = [state_hash(model.state_dict()) for model in models]
    modes = [model.train(i == 1).training for i, model in enumerate(models)]
    merged = fuse(method, models).model
    with torch.no_grad():
        for value in merged.state_dict().values():
            value.zero_()
    assert [state_hash(model.state_dict()) for model in models] == before
    assert [model.training for model in models] == modes
    assert all(p.grad is None for model in models for p in model.parameters())


@pytest.mark.parametrize("method", EVERY)
def test_a_model_that_is_not_finite_is_named_with_its_entry(method: str) -> None:
    models, start = [network(0), network(1)], network(1000)
    with torch.no_grad():
        models[1][4].bias[1] = float("nan")  # type: ignore[index]
    with refused("south", "NaN", "4.bias"):
        merge(models, method, data=images(), score=score, start=start, names=["north", "south"])


def test_the_mean_itself_looks_at_its_sum() -> None:
    models = [network(0), network(1)]
    with torch.no_grad():
        models[0][4].bias[1] = float("inf")  # type: ignore[index]
    with refused("model-0", "NaN", "4.bias"):
        fuse("mean", models)
