from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from fedmerge.models.entries import entries, kinds
from fedmerge.models.state import average, non_finite
from tests.facts import refused


def test_what_each_entry_of_a_network_is() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    net.register_buffer("phase", torch.ones(1, dtype=torch.complex64))
    net.register_buffer("index", torch.arange(3))
    net.register_buffer("mask", torch.tensor([True]))
    net.register_buffer("running_mean", torch.ones(1))  # no variance beside it: no batch norm
    expected = dict.fromkeys(["scale", "phase", "running_mean"], "mean") | {"index": "fixed", "mask": "fixed"}
    expected |= dict.fromkeys(["0.weight", "0.bias", "1.weight", "1.bias"], "mean")
    expected |= {"1.running_mean": "statistic", "1.running_var": "statistic"}
    assert kinds(entries(net)) == expected | {"1.num_batches_tracked": "counter"}


def strange(value: torch.Tensor) -> nn.Module:
    net = nn.Linear(2, 2)
    net.register_buffer("odd", value)
    return net


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (strange(torch.zeros(2).to(torch.float8_e4m3fn)), ("odd", "'a'", "float8_e4m3fn")),
        (strange(torch.eye(2).to_sparse()), ("odd", "'a'", "sparse_coo")),
        (strange(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)), ("odd", "'a'", "qint8")),
        (strange(torch.ones(2).as_subclass(Marked)), ("odd", "'a'", "Marked")),
        (nn.LazyLinear(2), ("weight", "'a'", "run")),
        (nn.Linear(2, 2, device="meta"), ("weight", "'a'", "meta")),
        (torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear}), (0, "'a'")),
    ],
)
def test_what_no_arithmetic_is_known_for_is_refused_by_name(
    model: nn.Module, words: tuple[object, ...]
) -> None:
    with refused(*words):
        kinds(entries(model), "a")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (nn.utils.spectral_norm, "spectral norm"),
        (nn.utils.weight_norm, "weight norm"),
        (lambda layer: nn.utils.weight_norm(layer, dim=None), "weight norm"),
        (parametrizations.spectral_norm, "parametrisation"),
        (lambda layer: prune.random_unstructured(layer, "weight", 0.5), "pruning"),
    ],
)
def test_reparametrised_weights_in_a_state_dict_need_the_network(wrap, what: str) -> None:  # type: ignore[no-untyped-def]
    """Files and federated rounds have no module to ask."""
    layer = nn.Linear(3, 2)
    wrap(layer)
    state = {key: value.detach() for key, value in nn.Sequential(layer).state_dict().items()}
    with refused("model 1", what):
        average([state, state])


def test_names_that_only_look_like_it_are_weights() -> None:
    state = {"gate_g": torch.ones(4, 4), "gate_v": torch.ones(4, 4), "x_orig": torch.ones(2)}
    assert set(kinds(state).values()) == {"mean"}


def test_complex_weights_are_averaged_and_a_nan_in_them_is_seen() -> None:
    """1/4 (1 + i) + 3/4 (3 - i) = 2.5 - 0.5 i."""
    states = [{"w": torch.tensor([value])} for value in (1 + 1j, 3 - 1j)]
    out = average(states, [1.0, 3.0])["w"]
    assert out.dtype == torch.complex64
    assert out.item() == 2.5 - 0.5j
    assert non_finite({"w": torch.tensor([complex(1, float("nan"))])}) == ["w"]


def test_integers_that_differ_are_refused_and_counters_are_copied() -> None:
    states = [{"index": torch.tensor([1, 2]), "bn.num_batches_tracked": torch.tensor(n)} for n in (4, 9)]
    assert average(states)["bn.num_batches_tracked"].item() == 4
    states[1]["index"] = torch.tensor([2, 1])
    with refused("index", "int64", "model 1"):
        average(states)
    assert average(states, [1.0, 0.0])["index"].tolist() == [1, 2]  # a model left out is not asked


@pytest.mark.parametrize("batch_norm", ["average", "mixture"])
def test_a_variance_is_never_negative(batch_norm) -> None:  # type: ignore[no-untyped-def]
    """Weights 2 and -1, variances 1 and 3: 2 - 3 = -1."""
    states = [{"running_mean": torch.zeros(1), "running_var": torch.tensor([v])} for v in (1.0, 3.0)]
    assert average(states, [2.0, -1.0], batch_norm=batch_norm)["running_var"].item() == 0.0


def test_a_sum_that_does_not_fit_its_dtype_is_refused() -> None:
    """2 x 60,000 - 1 x (-60,000) is 180,000, and float16 ends at 65,504; half of it fits."""
    states = [{"w": torch.tensor([value], dtype=torch.float16)} for value in (60_000.0, -60_000.0)]
    with refused("'w'", "+05", "float16"):
        average(states, [2.0, -1.0])
    assert average(states, [3.0, 1.0])["w"].item() == 30_000.0
