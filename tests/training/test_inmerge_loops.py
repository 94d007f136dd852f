"""In-Model Merging in other people's loops is a pass by hand after each step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.training.inmerge import InMerge
from tests.training.inmerge_loops import ALWAYS, Make, by_hand, loss_of, same, sgd, train, weights

BACK_END = "inductor" if os.environ.get("FEDMERGE_SLOW") else "aot_eager"


def test_accumulated_gradients_are_one_step(make_network: Make) -> None:
    """Three batches a step, two steps: two passes."""
    model = make_network().eval()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    for batch in range(6):
        (loss_of(model, batch) / 3).backward()
        if batch % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert inmerge.merges == {"0": 12, "3": 16}


def test_two_groups_with_rates_of_their_own(make_network: Make) -> None:
    model, twin = make_network(), make_network()

    def grouped(of: nn.Module) -> torch.optim.Optimizer:
        groups = [{"params": of[:6].parameters()}, {"params": of[6:].parameters(), "lr": 0.5}]
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9)

    inmerge, reference = InMerge(model, **ALWAYS).attach(first := grouped(model)), InMerge(twin, **ALWAYS)
    second = grouped(twin)
    for step in range(3):
        train(model, first, range(step, step + 1))
        train(twin, second, range(step, step + 1))
        reference.step()
    assert same(weights(model), weights(twin))
    assert inmerge.merges == reference.merges == {"0": 18, "3": 24}


def test_a_scheduler_around_the_optimizer(make_network: Make) -> None:
    """Schedulers put a counter around ``step``; a pass comes all the same, once a step."""
    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)
    rates = []
    for step in range(5):
        train(model, optimizer, range(step, step + 1))
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) == 5
    assert inmerge.merges == {"0": 30, "3": 40}


def test_a_closure_is_asked_often_and_merged_once(make_network: Make) -> None:
    model = make_network().eval()
    optimizer, asked = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4), []
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        asked.append(weights(model)[0])
        return loss

    optimizer.step(closure)
    assert len(asked) > 1
    assert inmerge.merges == {"0": 6, "3": 8}


@pytest.mark.parametrize("tau", [-1.01, 0.05])
def test_under_autocast_the_weights_go_the_same_way(make_network: Make, tau: float) -> None:
    """A step inside the block, as some loops have it: cosines are not rounded to bfloat16."""
    one, two = make_network(), make_network()
    options = ALWAYS | {"tau": tau}
    inmerge, reference = InMerge(one, **options), InMerge(two, **options)
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inmerge.step()
        reference.step()
    assert same(weights(one), weights(two))
    assert inmerge.merges == reference.merges


def test_mixed_precision_in_a_whole_loop(make_network: Make) -> None:
    """bfloat16 autocast, a scaler, accumulation of two, clipping and a scheduler, as loops have them."""
    model = make_network().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    inmerge = InMerge(model, **ALWAYS, bias="follow", momentum="mix").attach(optimizer)
    for batch in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch) / 2
        scaler.scale(loss).backward()
        if batch % 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
    assert inmerge.merges == {"0": 24, "3": 32}
    assert all(value.isfinite().all() for value in weights(model))


@pytest.fixture
def compiled() -> Callable[[nn.Module], Any]:
    """``torch.compile``; with FEDMERGE_SLOW by its default back end, which compiles C++; where it works."""

    def compile_(model: nn.Module) -> Any:
        return torch.compile(model, dynamic=False, backend=BACK_END)

    try:
        compile_(nn.Linear(2, 2))(torch.zeros(1, 2))
    except Exception as error:  # no compiler, no headers, a home that cannot be written
        pytest.skip(f"torch.compile does not work here: {type(error).__name__}: {str(error)[:200]}")
    return compile_


def test_a_compiled_network_sees_the_merged_weights(make_network: Make, compiled: Any) -> None:
    plain, model = make_network(), compiled(make_network())
    first, second = sgd(plain), sgd(model)
    reference, inmerge = InMerge(plain, **ALWAYS).attach(first), InMerge(model, **ALWAYS).attach(second)
    assert inmerge.layers == ("0", "3")
    train(plain, first, range(3))
    train(model, second, range(3))
    assert inmerge.merges == reference.merges == {"0": 18, "3": 24}
    for a, b in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    seen = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(model(seen), plain(seen), rtol=1e-4, atol=1e-5)


def test_a_compiled_step_is_followed_too(make_network: Make, compiled: Any) -> None:
    model = make_network().eval()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    step = torch.compile(lambda: optimizer.step(), backend=BACK_END)
    for batch in range(3):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        step()
    assert inmerge.merges == {"0": 18, "3": 24}


def test_in_data_parallel_the_network_inside_is_merged(make_network: Make) -> None:
    model, twin = nn.DataParallel(make_network()), make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    train(model, optimizer, range(3))
    assert inmerge.layers == ("0", "3")
    assert same(weights(model), weights(by_hand(twin, 3, **ALWAYS)[0]))
