"""A source is the caller's model, wrapped and shaped as it is; what is no model is refused by name."""

from __future__ import annotations

import types
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fedmerge.merging import FUSION, merge
from fedmerge.models.outputs import logits_of
from tests.facts import refused
from tests.merging.own_networks import ENSEMBLES, Net, fused, images


def _forward_on_the_object(net: Net) -> None:
    conv, norm, mid, head = net.conv, net.norm, net.mid, net.head
    net.forward = lambda x: head(mid(norm(conv(x)).relu().mean((2, 3))).relu())  # type: ignore[method-assign]


def _function_in_an_attribute(net: Net) -> None:
    def scaled(logits: Tensor, *, by: list[nn.Parameter]) -> Tensor:
        return logits * by[0].sum()

    net.answer = partial(lambda logits, inner: inner(logits), inner=lambda z: scaled(z, by=[net.norm.weight]))


def _hook_of_a_neighbour(net: Net) -> None:
    net.norm.register_forward_pre_hook(lambda _, given, bias=net.conv.bias: given[0] + bias.view(1, -1, 1, 1))


CLINGING = [
    (_forward_on_the_object, ("forward",)),
    (_function_in_an_attribute, ("answer",)),
    (_hook_of_a_neighbour, ("norm", "conv.bias")),
]


@pytest.mark.parametrize(("cling", "words"), CLINGING)
@pytest.mark.parametrize("method", FUSION.names())
def test_a_model_whose_copies_would_run_its_own_weights_is_refused(method: str, cling, words) -> None:  # type: ignore[no-untyped-def]
    """Merged with zeros, such a network would still answer with the weights of the first."""
    nets = [Net(0), Net(1)]
    for net in nets:
        cling(net)
    with refused("model-0", "copy", *words):
        fused(nets, method)


def test_functions_that_hold_no_part_of_the_model_stay() -> None:
    """A forward bound to the object, a partial of the object and a hook that looks at what it is given are
    copied, or find what they need there: the mean computes what the mean of plain networks computes."""
    nets, seen = [Net(0), Net(1)], []
    for net in nets:
        net.forward = types.MethodType(lambda self, x: 2 * Net.forward(self, x), net)  # type: ignore[method-assign]
        net.again = partial(isinstance, net.mid)  # type: ignore[assignment]
        net.mid.register_forward_hook(lambda module, given, out: seen.append(module.weight) or out)
    found, (x, _) = merge(nets, "mean").model, images()
    torch.testing.assert_close(found(x), 2 * merge([Net(0), Net(1)], "mean").model(x))
    assert seen[-1] is found.mid.weight
    assert found.again.args == (found.mid,)


def test_models_with_other_numbers_of_classes_are_refused_where_widths_may_differ() -> None:
    nets, (x, _) = [Net(0), Net(1)], images()
    nets[1].head = nn.Linear(6, 5)
    for method in ("kf", "ot", "hf", "mean"):
        with refused("model-1"):
            merge(nets, method, data=x)
    for method in ("kf", "ot"):
        with refused("model-1", 5, 3, "gives"):
            merge(nets, method, data=x)


ANSWERS = {
    "dict": lambda logits: {"aux": logits * 0, "logits": logits},
    "out": lambda logits: {"out": logits},
    "tuple": lambda logits: (logits, logits * 0),
}


@pytest.mark.parametrize("method", FUSION.names())
@pytest.mark.parametrize("answer", ANSWERS)
def test_models_that_return_more_than_logits_merge_as_those_that_do_not(method: str, answer: str) -> None:
    x, _ = images()
    expected = fused([Net(0), Net(1)], method)(x)
    model = fused([Net(0, answer=ANSWERS[answer]), Net(1, answer=ANSWERS[answer])], method)
    found = model(x)
    assert isinstance(found, Tensor) == (method in ENSEMBLES)
    torch.testing.assert_close(logits_of(found), expected)


@pytest.mark.parametrize("method", ["mean", "ties", "kf", "greedy", "fisher", "ensemble-logits"])
def test_wrapped_models_are_merged_inside(method: str) -> None:
    x, _ = images()
    expected = fused([Net(0), Net(1)], method)(x)
    for wrap in (nn.DataParallel, torch.compile):
        model = fused([wrap(Net(0)), Net(1)], method, start=wrap(Net(9)).state_dict())
        torch.testing.assert_close(model(x), expected)


def test_names_of_parts_that_are_compiled_are_explained() -> None:
    net = Net(0)
    net.mid = torch.compile(net.mid)
    with refused("module.", "_orig_mod."):
        merge([net, Net(1)], "mean")


@pytest.mark.parametrize("method", FUSION.names())
def test_models_given_twice_and_frozen_ones(method: str) -> None:
    net = Net(0).requires_grad_(False)
    model = fused([net, net], method)
    assert logits_of(model(images()[0])).isfinite().all()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_what_is_no_model_or_has_no_weights_is_a_sentence() -> None:
    for models, words in [
        ([nn.Flatten(), nn.Flatten()], ("model-0", "weights")),
        ([Net(0).state_dict()], ("model-0", "OrderedDict", "nn.Module")),
        ([Net(0), Net(1).to("meta")], ("conv.weight", "model-1")),
    ]:
        for method in ("mean", "ties", "kf"):
            with refused(*words):
                merge(models, method, data=images()[0], start=Net(9))
    with refused("two", "name", "models"):
        merge([Net(0), Net(1)], "mean", names=["a", "a"])


def test_extra_state_and_ties_stay() -> None:
    class Tied(nn.Module):
        def __init__(self, value: float, tie: bool = True) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            nn.init.constant_(self.a.weight, value)
            if tie:
                self.b.weight = self.a.weight

        def get_extra_state(self) -> dict[str, int]:
            return {"version": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    for method in ("mean", "ties", "task-arithmetic", "greedy"):
        given = {"start": Tied(0.0).state_dict(), "score": lambda state: float(len(state))}
        model = merge([Tied(1.0), Tied(1.0)], method, **given).model
        assert model.a.weight is model.b.weight
        assert model.state_dict()["_extra_state"] == {"version": 3}
        with refused("a.weight", "b.weight", "model-1"):
            merge([Tied(1.0), Tied(3.0, tie=False)], method, start=Tied(0.0), score=lambda state: 1.0)
    for wrong, said in ((5, "5"), ([Tied(0.0)], "start"), ({"a.weight": [0.0]}, "a.weight"), ({3: 1}, "3")):
        with refused("start", said):
            merge([Tied(1.0), Tied(1.0)], "ties", start=wrong)  # type: ignore[arg-type]
