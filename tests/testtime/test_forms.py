"""Models as people have them: wrapped, answering in dicts and tuples, with unusual parts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.flat import FlatModels
from fedmerge.testtime import TESTTIME
from tests.facts import refused
from tests.testtime.every_method import Around, each
from tests.testtime.grouped import adaptive


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model),
        lambda model: torch.optim.swa_utils.AveragedModel(model),
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
    ids=["DataParallel", "compile", "AveragedModel", "both"],
)
@each
def test_wrapped_models_are_the_networks_inside(
    name: str, models: list[nn.Module], batch: Tensor, wrap: Any
) -> None:
    found = TESTTIME[name].call([wrap(model) for model in models]).observe(batch)[0]
    assert torch.equal(found, TESTTIME[name].call(models).observe(batch)[0])


def test_an_anchor_may_be_wrapped_too(models: list[nn.Module], batch: Tensor) -> None:
    """At scale 0 the merge is the anchor, whichever way it is given."""
    for anchor in (models[1], nn.DataParallel(models[1]), nn.DataParallel(models[1]).state_dict()):
        node = adaptive(models, scale=0.0, anchor=anchor)
        node.observe(batch)
        assert torch.equal(node.sources.merged["fc.weight"], models[1].fc.weight)


class Answering(Around):
    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))


class Form:
    """Puts logits into a form; a class, so that it can be told from others."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, logits: Tensor) -> Any:
        forms = {
            "logits": {"loss": None, "logits": logits},
            "out": {"out": logits, "aux": logits[:1]},
            "tuple": (logits, "more"),
            "list": [logits],
            "scores": {"scores": logits},
        }
        return forms[self.kind]


@each
def test_answers_in_dicts_and_tuples(name: str, models: list[nn.Module], batch: Tensor) -> None:
    plain_node = TESTTIME[name].call(models)
    expected = [plain_node.observe(batch)[0] for _ in range(2)]
    for kind in ("logits", "out", "tuple", "list"):
        node = TESTTIME[name].call([Answering(model, form=Form(kind)).eval() for model in models])
        for logits in expected:
            assert torch.equal(node.observe(batch)[0], logits)
    with refused("found", "models[0]"):
        TESTTIME[name].call([Answering(model, form=Form("scores")) for model in models]).observe(batch)


class Gained(Around):
    """A parameter without dimensions, and state of its own kind."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.gain * x)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


class Tied(nn.Module):
    """Two layers that share a weight, and one module that runs twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(147, 16)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(16)
        self.again = self.norm
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.again(self.two(self.norm(self.one(self.stem(x.flatten(1)))).relu())))


@each
def test_unusual_parts_of_identical_sources_keep_their_function(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    torch.manual_seed(0)
    for model in (Gained(models[0]).eval(), Tied().eval()):
        node = TESTTIME[name].call([copy.deepcopy(model) for _ in range(3)])
        found = node.observe(batch)[0]
        assert found.isfinite().all()
        if name not in (
            "alpha-bn",
            "bn-adapt",
            "contrast",
            "note",
            "stream-norms",
            "tent",
            "t3a",
            "lame",
            "memo",
            "stream-adaptive",
        ):  # which answer otherwise by design
            expected = model(batch).softmax(dim=1)
            torch.testing.assert_close(found.softmax(dim=1), expected, rtol=1e-3, atol=1e-5)


def test_a_module_in_two_groups_is_refused() -> None:
    """In the encoder and in the head: coefficients of its own in either, but only one weight."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net.append(net[0])
    flat = FlatModels([net, copy.deepcopy(net)], net)
    with refused("0.weight", "3.weight"):
        flat.split("3")
