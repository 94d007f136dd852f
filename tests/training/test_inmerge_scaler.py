"""A step that GradScaler skips is none for In-Model Merging."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedmerge.training.inmerge import InMerge
from tests.training.inmerge_loops import ALWAYS, Make, loss_of, same, sgd, train, weights


def optimizers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    return {
        "sgd": sgd,
        "fused sgd": lambda model: sgd(model, fused=True),
        "fused adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
        "foreach adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, foreach=True),
    }


def spoil(model: nn.Module) -> None:
    model[9].weight.grad[0, 0] = float("inf")


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("kind", list(optimizers()))
def test_a_step_that_the_scaler_skips_is_none(make_network: Make, kind: str, unscale: bool) -> None:
    """Of steps 0 to 3, the second has an infinite gradient: three passes, with the draws of three steps."""
    model, twin = make_network().eval(), make_network().eval()
    optimizer, plain = optimizers()[kind](model), optimizers()[kind](twin)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    options = {**ALWAYS, "p": 0.5}
    inmerge, reference = InMerge(model, **options).attach(optimizer), InMerge(twin, **options)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step == 1:
            spoil(model)
        if unscale:
            scaler.unscale_(optimizer)
        before, counted = weights(model), inmerge.merges
        scaler.step(optimizer)
        scaler.update()
        if step == 1:
            assert same(weights(model), before)
            assert inmerge.merges == counted
        else:
            train(twin, plain, range(step, step + 1))
            reference.step()
    assert sum(inmerge.merges.values()) > 0
    assert inmerge.merges == reference.merges
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b)


def test_skipped_steps_do_not_count_towards_every(make_network: Make) -> None:
    """Every second step that is taken: 0, skipped, 2 (a pass), 3, 4 (a pass)."""
    model = make_network().eval()
    optimizer = sgd(model, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    inmerge = InMerge(model, **ALWAYS, every=2).attach(optimizer)
    for step, merged in enumerate([0, 0, 6, 6, 12]):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step == 1:
            spoil(model)
        scaler.step(optimizer)
        scaler.update()
        assert inmerge.merges["0"] == merged


class Scaled(torch.optim.SGD):
    """An optimizer of the older contract: it is given the scaler, and skips by itself."""

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None, *, grad_scaler: Any = None) -> None:
        if not any(each.item() for each in grad_scaler._check_inf_per_device(self).values()):
            super().step(closure)


def test_an_optimizer_that_is_given_the_scaler_is_believed_too(make_network: Make) -> None:
    model = make_network().eval()
    optimizer = Scaled(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    calls = []
    InMerge(model, **ALWAYS).attach(optimizer).step = lambda: calls.append(step)  # type: ignore[method-assign]
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step == 1:
            spoil(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scaler.step(optimizer)
        scaler.update()
    assert sorted(set(calls)) == [0, 2]


def test_a_scaler_that_is_off_changes_nothing(make_network: Make) -> None:
    model = make_network().eval()
    optimizer, scaler = sgd(model, fused=True), torch.amp.GradScaler("cpu", enabled=False)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    scaler.scale(loss_of(model, 0)).backward()
    scaler.step(optimizer)
    assert inmerge.merges == {"0": 6, "3": 8}
