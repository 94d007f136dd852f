from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedmerge as fm
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import find_neurons, follow, following, neurons_of, program
from fedmerge.models.graph.fingerprint import fingerprint
from tests.facts import refused

X = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
SWITCH = {"tanh": False}


@pytest.fixture(autouse=True)
def exports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The networks that torch.export has followed; nothing is remembered from other tests."""
    followed: list[str] = []
    export = program._export

    def counted(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
        followed.append(type(model).__name__)
        return export(model, example)

    monkeypatch.setattr(program, "_export", counted)
    following._programs.clear()
    yield followed
    following._programs.clear()


class Net(nn.Module):
    """Linear, an activation given as an attribute, linear; an offset that is not in the state dict."""

    def __init__(self, act: object = "relu", offset: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.act = nn.Linear(4, 5), nn.Linear(5, 3), act
        self.register_buffer("offset", torch.full((4,), offset), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x - self.offset)
        act: Callable[[Tensor], Tensor] = getattr(torch, self.act) if isinstance(self.act, str) else self.act  # type: ignore[assignment]
        return self.second(act(x))


class Switched(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x.tanh() if SWITCH["tanh"] else x.relu())


def outputs(model: nn.Module) -> Tensor:
    found = follow(model, X)
    return found.run(found.values(model.state_dict()), X)


def test_other_weights_of_an_architecture_are_not_followed_again(exports: list[str]) -> None:
    first, second = Net(seed=0), Net(seed=1)
    for model in (first, second, copy.deepcopy(first)):
        torch.testing.assert_close(outputs(model), model(X))
    assert exports == ["Net"]
    assert follow(first, X) is follow(second, X)


@pytest.mark.parametrize(
    "other",
    [
        Net("tanh"),
        Net(functional.relu6),
        Net(partial(torch.clamp, min=-1.0)),
        Net(offset=0.5),
        Net().double(),
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval(),
    ],
    ids=["attribute", "function", "partial", "content", "dtype", "class"],
)
def test_what_computes_something_else_is_followed_by_itself(other: nn.Module, exports: list[str]) -> None:
    outputs(Net())
    x = X.to(next(other.parameters()).dtype)
    found = follow(other, x)
    torch.testing.assert_close(found.run(found.values(other.state_dict()), x), other(x))
    assert len(exports) == 2
    assert fingerprint(other) != fingerprint(Net())


def test_equal_numbers_of_other_types_differ() -> None:
    keys = {repr(fingerprint(Net(value))) for value in (1, 1.0, True, "1", (1,), [1], {1: 1})}
    assert len(keys) == 7


def hooked() -> nn.Module:
    model = Net()
    model.first.register_forward_hook(lambda _module, _args, output: 2 * output)
    return model


def patched() -> nn.Module:
    model = Net()
    model.first.forward = lambda x: x @ model.first.weight.T  # type: ignore[method-assign]
    return model


def closing(factor: float = 2.0) -> nn.Module:
    return Net(lambda x: factor * x)


def bound() -> nn.Module:
    return Net(Scale(2.0).times)


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def times(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("make", [hooked, patched, closing, bound])
def test_what_cannot_be_told_from_its_values_is_followed_every_time(
    make: Callable[[], nn.Module], exports: list[str]
) -> None:
    for model in (make(), make()):
        assert fingerprint(model) is None
        torch.testing.assert_close(outputs(model), model(X))
    assert len(exports) == 2


def test_a_remembered_program_that_is_wrong_for_a_model_is_not_used(exports: list[str]) -> None:
    """A value outside the module decides; no key can hold it, but the outputs for two images show it."""
    outputs(Switched())
    SWITCH["tanh"] = True
    try:
        model = Switched(seed=1)
        torch.testing.assert_close(outputs(model), model(X))
    finally:
        SWITCH["tanh"] = False
    assert len(exports) == 2


def test_a_model_of_chance_is_refused() -> None:
    class Chance(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand_like(x[:, :1])

    with refused("Chance", "torch.export"):
        follow(Chance(), X)


def test_no_image_is_remembered() -> None:
    found = follow(Net(), X)
    assert found.example.is_meta
    assert found.example.shape == (2, 4)
    assert not any(torch.equal(value.flatten()[:4], X[0]) for value in found.constants.values())


def test_the_least_recently_used_program_is_forgotten(
    exports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "MOST", 2)
    for act in ("relu", "tanh", "relu", "sigmoid", "relu", "tanh"):
        outputs(Net(act))
    assert len(exports) == 4  # relu, tanh, sigmoid (which drives tanh out), tanh again


def test_neurons_are_derived_once_and_a_refusal_is_said_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(following, "find_neurons", lambda *given: calls.append(1) or find_neurons(*given))
    for seed in range(3):
        model = Net(seed=seed)
        assert [group.size for group in neurons_of(follow(model, X), model.state_dict()).groups] == [5]
    assert len(calls) == 1

    odd = Net(partial(torch.cumsum, dim=1))  # a neuron reads those before it
    for _ in range(2):
        with refused("cumsum", "''", "greedy"):
            neurons_of(follow(odd, X), odd.state_dict())


def test_a_second_merge_gives_the_same_bits_without_following(exports: list[str]) -> None:
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
    models = [build(spec, seed).eval() for seed in range(2)]
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for method in ("hf", "kf", "ot", "rebasin"):
        one, two = (fm.merge(models, method, data=x).model.state_dict() for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert len(exports) == 1
