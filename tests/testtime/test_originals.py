"""A source is the caller's model; what a merge would have to choose is refused by name."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.flat import FlatModels
from fedmerge.testtime import TESTTIME, baselines
from tests.facts import refused
from tests.testtime.every_method import Around, each, merging
from tests.testtime.grouped import adaptive


class Centred(Around):
    """Takes its own mean from the images: a non-persistent buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - self.mean)


class Scaled(Around):
    """Multiplies the images by an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.gain)


class Ordered(Around):
    """Orders the channels by integers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, self.kept])


class Signed(Around):
    """Turns the images around where a boolean says so."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.where(self.kept, x, -x))


class Settings:
    """An object that says nothing of what it holds."""

    def __init__(self, gain: float) -> None:
        self.gain = gain


class Indirect(Around):
    """Multiplies the images by what an object in an attribute holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.settings.gain)


OWN: list[tuple[Callable[[nn.Module, int], nn.Module], tuple[str, ...]]] = [
    (lambda net, i: Centred(net, mean=torch.tensor(0.4 * i)), ("mean", "models[0]", "models[1]")),
    (lambda net, i: Scaled(net, gain=1.0 + i), ("gain", "models[0]", "models[1]")),
    (lambda net, i: Ordered(net, kept=torch.arange(3).roll(i)), ("kept", "int64")),
    (lambda net, i: Signed(net, kept=torch.tensor(i == 1)), ("kept", "bool")),
    (lambda net, i: Indirect(net, settings=Settings(1.0 + i)), ("object", "attribute")),
]
own = pytest.mark.parametrize(("around", "words"), OWN, ids=["mean", "gain", "order", "sign", "object"])


def entropies(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(dim=-1) / math.log(p.shape[-1])


@own
def test_each_source_keeps_what_is_its_own(
    models: list[nn.Module], batch: Tensor, around: Any, words: tuple[str, ...]
) -> None:
    """The weighted ensemble, from the caller's models themselves: p = sum_i alpha_i p_i."""
    given = [around(model, i).eval() for i, model in enumerate(models)]
    p = torch.stack([model(batch).softmax(dim=1) for model in given])
    alpha = torch.softmax(-entropies(p).mean(dim=1) / 0.1, dim=0)
    logits, trace = baselines.EntropyWeighted(given).observe(batch)
    torch.testing.assert_close(logits.exp(), (alpha[:, None, None] * p).sum(dim=0))
    assert trace.source_entropies == pytest.approx(entropies(p).mean(dim=1).tolist(), rel=1e-5)
    flat = FlatModels(given, given[0])
    assert all(torch.equal(flat.model(i)(batch), model(batch)) for i, model in enumerate(given))


@own
@merging
def test_what_a_merge_would_have_to_choose_is_refused_by_name(
    name: str, models: list[nn.Module], batch: Tensor, around: Any, words: tuple[str, ...]
) -> None:
    given = [around(model, i).eval() for i, model in enumerate(models)]
    with refused(*words):
        TESTTIME[name].call(given).observe(batch)
    same = [around(model, 1).eval() for model in models]
    assert TESTTIME[name].call(same).observe(batch)[0].isfinite().all()


@each
def test_counters_of_batches_may_differ(name: str, models: list[nn.Module], batch: Tensor) -> None:
    expected = TESTTIME[name].call(models).observe(batch)[0]
    for i, model in enumerate(models):
        model.norm.num_batches_tracked.fill_(i)
    assert torch.equal(TESTTIME[name].call(models).observe(batch)[0], expected)


class Stuck(nn.Module):
    """Its forward pass goes on with the module that it was made with, wherever it is copied."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.also = Elsewhere()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.also.gain


class Elsewhere:
    """Forgets what it holds when it is copied."""

    gain = 2.0

    def __deepcopy__(self, memo: Any) -> Elsewhere:
        other = Elsewhere()
        other.gain = 1.0
        return other


@each
def test_a_copy_that_answers_otherwise_is_refused(name: str, models: list[nn.Module], batch: Tensor) -> None:
    with refused("models[0]", "answer", "does"):
        TESTTIME[name].call([Stuck(model).eval() for model in models]).observe(batch)


def _closed_over(model: nn.Module) -> nn.Module:
    conv, norm, fc = model.conv, model.norm, model.fc
    model.forward = lambda x: fc(norm(conv(x)).relu().mean(dim=(2, 3)))
    return model


@each
def test_a_copy_that_runs_the_model_itself_is_refused(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    """A forward pass that was put onto the object holds the layers of the object, in every copy."""
    with refused("models[0]", "conv", "itself"):
        TESTTIME[name].call([_closed_over(model) for model in models]).observe(batch)


@each
def test_models_that_changed_are_not_compared(name: str, models: list[nn.Module], batch: Tensor) -> None:
    given = [copy.deepcopy(model) for model in models]
    expected = TESTTIME[name].call(models).observe(batch)[0]
    node = TESTTIME[name].call(given)
    with torch.no_grad():
        for model in given:
            model.fc.weight.zero_()
    assert torch.equal(node.observe(batch)[0], expected)


@each
def test_models_are_let_go_after_the_first_batch(name: str, models: list[nn.Module], batch: Tensor) -> None:
    given = [copy.deepcopy(model) for model in models]
    alive = [weakref.ref(model) for model in given]
    node = TESTTIME[name].call(given)
    other = copy.deepcopy(node)
    del given
    node.observe(batch)
    assert other.observe(batch)[0].isfinite().all()
    gc.collect()
    assert all(reference() is None for reference in alive)


def test_an_anchor_that_keeps_something_else_of_its_own_is_refused(models: list[nn.Module]) -> None:
    """A merge near it would run the sources' input mean, and not the anchor's."""
    own = [Centred(model, mean=torch.tensor(0.5)) for model in models]
    adaptive(own, scale=0.5, anchor=Centred(models[1], mean=torch.tensor(0.5)))
    with refused("anchor", "models[0]", "mean"):
        adaptive(own, scale=0.5, anchor=Centred(models[1], mean=torch.tensor(3.0)))
