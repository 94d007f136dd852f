"""In-Model Merging in other people's loops: frozen, skipped, wrapped, accumulated, saved and loaded."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmerge.errors import FedMergeError
from fedmerge.training.inmerge import InMerge
from tests.facts import refused

ALWAYS: dict[str, Any] = {"p": 1.0, "tau": -1.01, "skip": 0}
Make = Callable[[], nn.Module]


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The loss of a batch that depends on the step alone."""
    draws = torch.Generator().manual_seed(step)
    images = torch.randn(4, 1, 6, 6, generator=draws)
    return cross_entropy(model(images), torch.tensor([0, 1, 0, 1]))


def sgd(model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9} | more)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    model.eval()  # dropout draws from the global generator
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def by_hand(model: nn.Module, steps: int, **options: Any) -> tuple[nn.Module, InMerge]:
    """Plain SGD without hooks, a pass after each step."""
    inmerge, optimizer = InMerge(model, **options), sgd(model)
    for step in range(steps):
        train(model, optimizer, range(step, step + 1))
        inmerge.step()
    return model, inmerge


# What is frozen stays as it is.


@pytest.mark.parametrize("how", ["no gradient", "not in the optimizer"])
def test_a_frozen_convolution_stays_as_it_is(make_network: Make, how: str) -> None:
    model = make_network()
    free = [parameter for parameter in model.parameters() if parameter is not model[0].weight]
    if how == "no gradient":
        model[0].weight.requires_grad_(False)
        free = list(model.parameters())
    before = model[0].weight.clone()
    inmerge = InMerge(model, **ALWAYS, bias="follow").attach(torch.optim.SGD(free, lr=0.1))
    train(model, inmerge._optimizer, range(3))
    assert torch.equal(model[0].weight, before)
    assert inmerge.merges == {"0": 0, "3": 24}


def test_frozen_by_hand_too_and_the_draws_of_the_others_stay(make_network: Make) -> None:
    one, two = make_network(), make_network()
    one[0].weight.requires_grad_(False)
    kept = one[0].weight.clone()
    options = {**ALWAYS, "p": 0.5}
    InMerge(one, **options).step()
    InMerge(two, **options).step()
    assert torch.equal(one[0].weight, kept)
    assert not torch.equal(two[0].weight, kept)
    assert torch.equal(one[3].weight, two[3].weight)


def test_unfrozen_in_the_middle_it_is_merged_from_then_on(make_network: Make) -> None:
    model = make_network()
    model[0].weight.requires_grad_(False)
    inmerge = InMerge(model, **ALWAYS)
    inmerge.step()
    model[0].weight.requires_grad_(True)
    inmerge.step()
    assert inmerge.merges == {"0": 6, "3": 16}


def test_what_follows_is_frozen_part_by_part(make_network: Make) -> None:
    """The first layer's bias is frozen, the second one's batch norm: by its gamma, with its statistics."""
    model = make_network()
    model[1].running_mean.copy_(torch.arange(6.0))
    model[4].running_mean.copy_(torch.arange(8.0))
    model[0].bias.requires_grad_(False)
    model[4].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    InMerge(model, **ALWAYS, bias="follow").step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"0.weight", "1.running_mean", "3.weight", "3.bias"} <= changed
    assert not changed & {"0.bias", "4.weight", "4.bias", "4.running_mean", "4.running_var"}


def test_an_optimizer_without_any_of_the_layers_is_refused(make_network: Make) -> None:
    model = make_network()
    with refused("SGD", 0, 3):
        InMerge(model, **ALWAYS).attach(torch.optim.SGD(model[9].parameters(), lr=0.1))


# A step that GradScaler skips is no step.


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


# Loops of every sort: the same as a pass by hand after each step.


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
    """``torch.compile`` where its back end works here."""

    def compile_(model: nn.Module) -> Any:
        return torch.compile(model, dynamic=False)

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
    step = torch.compile(lambda: optimizer.step())
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


# Attaching.


def test_detached_and_attached_again_it_goes_on(make_network: Make) -> None:
    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    train(model, optimizer, range(2))
    inmerge.detach()
    inmerge.detach()
    train(model, optimizer, range(2))
    inmerge.attach(optimizer).attach(optimizer)
    train(model, optimizer, range(1))
    assert inmerge.merges == {"0": 18, "3": 24}
    inmerge.detach()
    assert not optimizer._optimizer_step_post_hooks


def test_two_optimizers_have_an_inmerge_each(make_network: Make) -> None:
    """Each merges the layer that its optimizer trains, and only after that one's steps."""
    model = make_network()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:3], model[3:]))
    of_first, of_second = (InMerge(model, **ALWAYS).attach(each) for each in (first, second))
    train(model, first, range(2))
    train(model, second, range(1))
    assert of_first.merges == {"0": 12, "3": 0}
    assert of_second.merges == {"0": 0, "3": 8}


def test_a_refused_optimizer_leaves_the_former(make_network: Make) -> None:
    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    for other in (object(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)):
        with pytest.raises(FedMergeError, match=r"cannot follow object|nothing to merge"):
            inmerge.attach(other)  # type: ignore[arg-type]
    train(model, optimizer, range(1))
    assert inmerge.merges["0"] == 6


def test_an_optimizer_that_only_wraps_another_is_refused(make_network: Make) -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.param_groups = inner, inner.param_groups

    with refused("Wrapper", "InMerge"):
        InMerge(model := make_network(), **ALWAYS).attach(Wrapper(sgd(model)))


# Saving and loading.


@pytest.mark.parametrize("partner", ["similar", "random"])
@pytest.mark.parametrize("every", [1, 2])
def test_saved_and_loaded_in_the_middle_it_ends_with_the_same_bits(
    make_network: Make, every: int, partner: Any
) -> None:
    """Five steps at once, and three, a file, and two: with every second step, the file falls in between."""
    options: dict[str, Any] = {
        "p": 0.5,
        "tau": -1.01,
        "skip": 0,
        "every": every,
        "partner": partner,
        "seed": 4,
    }
    whole = make_network()
    optimizer = sgd(whole)
    unbroken = InMerge(whole, **options).attach(optimizer)
    train(whole, optimizer, range(5))

    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **options).attach(optimizer)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, inmerge)], file)
    file.seek(0)
    again = make_network()
    optimizer = sgd(again)
    goes_on = InMerge(again, **options | {"seed": 99}).attach(optimizer)
    for part, state in zip((again, optimizer, goes_on), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(again, optimizer, range(3, 5))
    assert same(weights(again), weights(whole))
    assert goes_on.merges == unbroken.merges
    assert goes_on.seed == 4
    assert_same_draws(goes_on, unbroken)


def assert_same_draws(one: InMerge, other: InMerge) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert {key: a[key] for key in ("options", "seed", "steps", "merges")} == {
        key: b[key] for key in ("options", "seed", "steps", "merges")
    }
    assert torch.equal(a["generator"], b["generator"])
    assert torch.equal(a["partners"], b["partners"])


def test_without_its_state_a_resumed_loop_would_draw_anew(make_network: Make) -> None:
    one, two = InMerge(make_network(), p=0.5, tau=-1.01, skip=0), InMerge(make_network(), p=0.5, skip=0)
    one.step()
    assert not torch.equal(one.state_dict()["generator"], two.state_dict()["generator"])


def test_a_state_is_a_copy(make_network: Make) -> None:
    inmerge = InMerge(make_network(), **ALWAYS)
    state = inmerge.state_dict()
    before = copy.deepcopy(state)
    inmerge.step()
    assert state["merges"] == before["merges"] == {"0": 0, "3": 0}
    assert torch.equal(state["generator"], before["generator"])
    twin = InMerge(make_network(), **ALWAYS)
    twin.load_state_dict(state)
    twin.step()
    assert state["merges"] == {"0": 0, "3": 0}


def test_a_state_goes_from_a_plain_network_to_a_wrapped_one(make_network: Make) -> None:
    inmerge = InMerge(make_network(), **ALWAYS)
    inmerge.step()
    wrapped = InMerge(nn.DataParallel(make_network()), **ALWAYS)
    wrapped.load_state_dict(inmerge.state_dict())
    assert_same_draws(wrapped, inmerge)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("partners"), ("InMerge", "options", "seed")),
        (lambda state: state.update(more=1), ("InMerge", "options", "seed")),
        (lambda state: state["options"].update(alpha=0.5), ("0.5", "0.8", "saved")),
        (lambda state: state["options"].update(beta=0.5), ("beta", "InMerge")),
        (lambda state: state["merges"].pop("3"), (0, 3, "layers", "merges")),
        (
            lambda state: state.update(generator=torch.zeros(3, dtype=torch.uint8)),
            ("generator", "InMerge", "torch.Generator"),
        ),
        (lambda state: state.update(partners=None), ("partners", "InMerge", "torch.Generator")),
    ],
)
def test_another_state_is_refused_and_nothing_is_changed(
    make_network: Make, change: Any, sentence: tuple[object, ...]
) -> None:
    saved = InMerge(make_network(), **ALWAYS)
    saved.step()
    state = saved.state_dict()
    change(state)
    inmerge = InMerge(make_network(), **ALWAYS, seed=7)
    with refused(*sentence):
        inmerge.load_state_dict(state)
    assert_same_draws(inmerge, InMerge(make_network(), **ALWAYS, seed=7))
