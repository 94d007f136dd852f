"""Server optimizers against their formulas by hand, and against Flower's own on random inputs."""

import math

import numpy as np
import pytest
import torch
from facts import refused
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from fedmerge.federation.plan.server_optimizer import ServerOptimizer, ServerOptimizerOptions

ADAPTIVE = ["fedadam", "fedyogi", "fedadagrad"]


def number(x: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([x], dtype=torch.float64)}


def steps(options: ServerOptimizerOptions, means: list[float]) -> list[float]:
    """The weight after each round from 0 on, for rounds whose means are given."""
    optimizer, x, path = ServerOptimizer(options, ["w"]), number(0.0), []
    for mean in means:
        x = optimizer.step(x, number(mean))
        path.append(x["w"].item())
    return path


@pytest.mark.parametrize("name", ADAPTIVE)
def test_two_rounds_by_hand(name):
    """d1 = 1, then d2 = 3 - x1; v begins at tau^2 = 0.01. beta1 is 0.9, but 0 for FedAdagrad."""
    first, second = steps(ServerOptimizerOptions(method=name, lr=0.5, tau=0.1), [1.0, 3.0])

    def moved(v: float, d: float) -> float:
        if name == "fedadagrad":
            return v + d * d
        if name == "fedadam":
            return 0.99 * v + 0.01 * d * d
        return v - 0.01 * d * d * math.copysign(1, v - d * d)

    new = 1.0 if name == "fedadagrad" else 0.1
    v1 = moved(0.01, 1.0)
    x1 = 0.5 * new / (math.sqrt(v1) + 0.1)
    d2 = 3 - x1
    x2 = x1 + 0.5 * ((1 - new) * new + new * d2) / (math.sqrt(moved(v1, d2)) + 0.1)
    assert (first, second) == pytest.approx((x1, x2), abs=1e-15)


def test_momentum_is_a_geometric_sum():
    """Updates of 1 each: m is 1, 1.9, 2.71, and x their sum; the mean is always one above x."""
    optimizer, x = ServerOptimizer(ServerOptimizerOptions(method="fedavgm"), ["w"]), number(0.0)
    path = []
    for _ in range(3):
        x = optimizer.step(x, {"w": x["w"] + 1})
        path.append(x["w"].item())
    assert path == pytest.approx([1.0, 2.9, 5.61])


def test_without_momentum_and_at_rate_one_fedavgm_is_the_mean():
    assert steps(ServerOptimizerOptions(method="fedavgm", momentum=0.0), [1.5, -2.0]) == [1.5, -2.0]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("fedadam", FedAdam), ("fedyogi", FedYogi), ("fedadagrad", FedAdagrad), ("fedavgm", FedAvgM)],
)
def test_it_is_flower_s_own_on_random_inputs(name, theirs, monkeypatch):
    """Flower's means are given to it; its v is set to begin at tau^2, as in the paper.

    Its FedAdam multiplies the step of round t by sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)); we do not, so
    the steps differ by that factor. Both begin every round at the same weights.
    """
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    if name == "fedavgm":
        flower = theirs(server_learning_rate=0.3, server_momentum=0.8)
    else:
        flower = (
            theirs(eta=0.3, beta_1=0.8, beta_2=0.95, tau=0.01)
            if name != "fedadagrad"
            else theirs(eta=0.3, tau=0.01)
        )
        flower.v_t = {key: np.full_like(value, 0.01**2) for key, value in x.items()}
    options = {"lr": 0.3, "momentum": 0.8, "beta2": 0.95, "tau": 0.01}
    options |= {} if name == "fedadagrad" else {"beta1": 0.8}  # Flower's FedAdagrad has none
    ours = ServerOptimizer(ServerOptimizerOptions(method=name, **options), ["a", "b"])
    for round in range(1, 6):
        mean = {key: value + 0.1 * rng.normal(size=value.shape) for key, value in x.items()}
        aggregated = ArrayRecord({key: Array(value) for key, value in mean.items()})
        monkeypatch.setattr(
            FedAvg, "aggregate_train", lambda *_, record=aggregated: (record, MetricRecord({}))
        )
        monkeypatch.setattr(FedAvg, "configure_train", lambda *_: [])
        sent = ArrayRecord({key: Array(value) for key, value in x.items()})
        flower.configure_train(round, sent, ConfigRecord({}), None)
        given, _ = flower.aggregate_train(round, [])
        tensors = [{key: torch.from_numpy(value) for key, value in state.items()} for state in (x, mean)]
        new = ours.step(*tensors)
        factor = 1.0
        if name == "fedadam":
            factor = np.sqrt(1 - 0.95 ** (round + 1)) / (1 - 0.8 ** (round + 1))
        for key in x:
            step = given[key].numpy() - x[key]
            np.testing.assert_allclose((new[key].numpy() - x[key]) * factor, step, rtol=1e-12, atol=1e-14)
        x = {key: given[key].numpy() for key in x}


@pytest.mark.parametrize("name", [*ADAPTIVE, "fedavgm"])
def test_only_parameters_are_moved_and_dtypes_stay(name):
    """Batch-norm statistics and counters are those of the mean, whatever the optimizer would do."""
    current = {
        "bn.weight": torch.ones(2),
        "bn.running_mean": torch.zeros(2),
        "bn.running_var": torch.ones(2),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    mean = {
        "bn.weight": torch.full((2,), 1.5),
        "bn.running_mean": torch.full((2,), 4.0),
        "bn.running_var": torch.full((2,), 0.25),
        "bn.num_batches_tracked": torch.tensor(9),
    }
    optimizer = ServerOptimizer(ServerOptimizerOptions(method=name, lr=0.5), ["bn.weight"])
    for _ in range(2):
        new = optimizer.step(current, mean)
        for key in mean.keys() - {"bn.weight"}:
            assert torch.equal(new[key], mean[key])
        assert list(new) == list(current)
        assert {key: value.dtype for key, value in new.items()} == {
            key: value.dtype for key, value in current.items()
        }
        assert not torch.equal(new["bn.weight"], mean["bn.weight"])


@pytest.mark.parametrize("name", [*ADAPTIVE, "fedavgm"])
def test_a_resumed_optimizer_goes_on_with_the_same_bits(name):
    """Three rounds in one go against one round, its state kept as tensors, and two more."""
    options = ServerOptimizerOptions(method=name)
    means = [torch.randn(50, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    whole, x = ServerOptimizer(options, ["w"]), {"w": torch.zeros(50)}
    for mean in means:
        x = whole.step(x, {"w": mean})
    first, y = ServerOptimizer(options, ["w"]), {"w": torch.zeros(50)}
    assert first.state_dict() == {}
    y = first.step(y, {"w": means[0]})
    kept = first.state_dict()
    first.step(y, {"w": means[1]})  # what goes on after the copy was taken does not change it
    second = ServerOptimizer(options, ["w"])
    second.load_state_dict(kept)
    for mean in means[1:]:
        y = second.step(y, {"w": mean})
    assert torch.equal(x["w"], y["w"])
    assert {key: value.dtype for key, value in kept.items()} == dict.fromkeys(kept, torch.float64)


def test_unlike_states_are_a_sentence():
    optimizer = ServerOptimizer(ServerOptimizerOptions(method="fedadam"), ["w"])
    with refused("w", "the global model", "shape", "1", "2"):
        optimizer.step({"w": torch.zeros(1)}, {"w": torch.zeros(2)})
