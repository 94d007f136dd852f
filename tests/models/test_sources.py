from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.copies import check_copy, faithful, fill, unwrapped
from fedmerge.models.sources import check_sources
from tests.facts import refused


@dataclass
class Settings:
    gain: float = 1.0

    def times(self, x: Tensor) -> Tensor:
        return self.gain * x

    def plus(self, x: Tensor) -> Tensor:
        return self.gain + x


class Version:
    """An object of a class of its own, which is not compared."""

    def __init__(self, number: int) -> None:
        self.number = number


def scaled(by: object) -> Callable[[Tensor], Tensor]:
    return lambda x: by * x  # type: ignore[operator,no-any-return]


class Net(nn.Module):
    """A linear layer after an input mean that is kept in a buffer which is not saved."""

    def __init__(self, mean: float = 0.0, **attributes: object) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.act = nn.ReLU()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x - self.mean))


class Extra(Net):
    def __init__(self, version: int = 2, **attributes: object) -> None:
        super().__init__(0.0, **attributes)
        self._version = Version(version)

    def get_extra_state(self) -> dict[str, object]:
        return {"version": torch.tensor(self._version.number)}

    def set_extra_state(self, state: object) -> None:
        pass


def with_norm(**options: float) -> nn.Module:
    net = Net()
    net.act = nn.LayerNorm(3, **options)
    return net


def with_act(act: nn.Module) -> nn.Module:
    net = Net()
    net.act = act
    return net


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (Net(0.0), Net(0.4), "mean"),
        (Net(size=1), Net(size=2), "size"),
        (Net(on=True), Net(on=1), "on"),
        (Net(kind="a"), Net(kind="b"), "kind"),
        (Net(size=1), Net(), "size"),
        (Net(table=torch.ones(2)), Net(table=torch.zeros(2)), "table"),
        (Net(table=np.ones(2)), Net(table=np.zeros(2)), "table"),
        (Net(steps=[1, {"a": (2.0,)}]), Net(steps=[1, {"a": (3.0,)}]), "steps"),
        (Net(settings=Settings()), Net(settings=Settings(2.0)), "settings"),
        (Net(squash=torch.relu), Net(squash=torch.tanh), "squash"),
        (Net(squash=lambda x: x), Net(squash=lambda x: -x), "squash"),
        (Net(squash=scaled(1.0)), Net(squash=scaled(2.0)), "squash"),
        (Net(squash=scaled(scaled)), Net(squash=scaled(with_act)), "squash"),
        (Net(squash=partial(torch.clamp, min=0)), Net(squash=partial(torch.clamp, min=1)), "squash"),
        (Net(squash=Settings(1.0).times), Net(squash=Settings(1.0).plus), "squash"),
        (with_norm(eps=1e-5), with_norm(eps=1e-3), "act.eps"),
        (Net(), with_act(nn.GELU()), "act"),
        (Net(), with_act(nn.Sequential(nn.ReLU())), "act"),
        (Extra(table=[1]), Extra(table=[2]), "table"),
        (Extra(), Extra(3), "extra state"),
    ],
)
def test_what_a_merge_would_have_to_choose_is_refused_by_name(
    one: nn.Module, other: nn.Module, place: str
) -> None:
    with refused(place, "a", "c", "into="):
        check_sources(["a", "b", "c"], [one, one, other])


def test_weights_modes_and_objects_may_differ() -> None:
    one, other = Net(table=np.array([1.0, np.nan])).train(), Net(table=np.array([1.0, np.nan])).eval()
    one.cache, other.cache = object(), object()
    one.body.register_forward_hook(lambda *given: None)
    other.body.weight.requires_grad_(False)
    check_sources("ab", [one, other])


def test_attributes_that_hold_parameters_are_the_parameters() -> None:
    """Recurrent layers keep their weights in a list as well."""
    check_sources("ab", [nn.LSTM(3, 4), nn.LSTM(3, 4)])
    one, other = Net(), Net()
    for net in (one, other):
        net.heads = {"first": [net.body.weight]}
    check_sources("ab", [one, other])
    other.heads = {"first": [torch.zeros(3, 4)]}
    with refused("heads", "first"):
        check_sources("ab", [one, other])


def test_widths_may_differ_where_a_method_takes_them() -> None:
    one, other = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 5))
    check_sources("ab", [one, other], any_width=True)
    with refused("0.out_features", 3, "'a'", 5, "'b'"):
        check_sources("ab", [one, other])


def test_a_faithful_copy_keeps_what_is_not_saved() -> None:
    net, x = Net(0.4, kind="b").train(), torch.rand(3, 4)
    nn.init.constant_(net.body.bias, 5.0)  # the emptied copy below answers zeros
    made = faithful(net)
    check_copy(net, made, x)
    assert net.training
    assert not made.training
    assert (made.mean.item(), made.kind) == (pytest.approx(0.4), "b")
    fill(made, {key: torch.zeros_like(value) for key, value in net.state_dict().items()})
    assert made(x).abs().sum() == 0
    assert net.body.weight.abs().sum() > 0
    with refused("'a'", "answer", "copy"):
        check_copy(net, made, x, "a")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_with_an_old_weight_norm_can_be_copied() -> None:
    """Their weight is no leaf, which copy.deepcopy refuses."""
    net = Net()
    nn.utils.weight_norm(net.body)
    net(torch.rand(2, 4))
    check_copy(net, faithful(net), torch.rand(2, 4))


def test_a_copy_that_clings_to_its_original_is_seen() -> None:
    """A sort of model that no deep copy serves: each copy adds one."""

    class Growing(Net):
        def __deepcopy__(self, memo: dict) -> Growing:  # type: ignore[type-arg]
            return Growing(self.mean.item() + 1)

    net = Growing()
    with refused("answer", "the model"):
        check_copy(net, faithful(net), torch.rand(2, 4))


def test_wrappers_are_taken_off() -> None:
    net = Net()
    for wrapped in (nn.DataParallel(net), torch.compile(net), nn.DataParallel(torch.compile(net)), net):
        assert unwrapped(wrapped) is net


def test_tied_tensors_take_one_value() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    eye = torch.eye(2)
    assert torch.equal(fill(net, {"0.weight": eye, "1.weight": eye})[0].weight, eye)
    with refused("0.weight", "1.weight"):
        fill(net, {"0.weight": eye, "1.weight": 2 * eye})
    with refused("1.weight", "Sequential", "them"):
        fill(net, {"0.weight": eye})
