"""SCAFFOLD: its laws, by hand on quadratics and in federations of small networks."""

from dataclasses import replace

import pytest
import torch

from fedmerge.federation.aggregators import AGGREGATORS, AggregationContext, Update
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.control_variates import change
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.models import average, build
from fedmerge.seeding import Draws
from fedmerge.training import Segment, fit
from tests.federation.scaffold.serving import assert_c_is_the_mean, close, having, served


def rounds_by_hand(plan, cohort, chosen):
    """The paper's Algorithm 1, with means by images: y <- y - lr (g - c_i + c) is in ``fit``'s correction."""
    state = build(plan.model, plan.seed).state_dict()
    names = [name for name, _ in build(plan.model, 0).named_parameters()]
    c = {name: torch.zeros_like(state[name]) for name in names}
    own = {site.name: c for site in cohort.training}
    everyone = sum(len(site.train) for site in cohort.training)
    for round in range(1, plan.rounds + 1):
        after, moved = {}, {name: torch.zeros_like(c[name]) for name in names}
        for site in [cohort[name] for name in chosen(round)]:
            model = build(plan.model, plan.seed)
            model.load_state_dict(state)
            c_i = own[site.name]
            found = fit(
                model,
                site.train.images,
                site.train.labels,
                plan.local,
                normalise=plan.normalisation,
                draws=Draws(plan.seed, "round", round, site.name),
                segment=Segment(correction={name: c[name] - c_i[name] for name in names}),
            )
            after[site.name] = y = model.state_dict()
            own[site.name] = {
                name: c_i[name] - c[name] + (state[name] - y[name]) / (found.steps * plan.local.lr)
                for name in names
            }
            for name in names:
                moved[name] = moved[name] + len(site.train) / everyone * (own[site.name][name] - c_i[name])
        state = average(list(after.values()), [float(len(cohort[name].train)) for name in after])
        c = {name: c[name] + moved[name] for name in names}
    return state, c, own


def test_the_rounds_are_the_paper_s_whoever_takes_part(plan, uneven):
    clients = ClientRegistry(Client(0, site.name, 0, 0, ()) for site in uneven.training)
    two = Participation(number=2)

    def chosen(round):
        return [client.name for client in participants(clients, two, plan.seed, round)]

    expected, c, own = rounds_by_hand(plan, uneven, chosen)
    changed = having(plan, aggregate="scaffold", participation={"number": 2})
    state, control, kept, failures = served(changed, uneven.training)
    assert not failures
    close(state, expected)
    close(control, c)
    for name, c_i in own.items():
        close(kept[name] or {key: torch.zeros_like(v) for key, v in c_i.items()}, c_i)
    assert_c_is_the_mean(control, kept, uneven.training)


def test_one_full_step_a_round_is_gradient_descent_on_the_mean_objective(plan, cohort):
    """Corrections cancel in the mean: x - lr sum_i p_i (g_i - c_i + c) = x - lr sum_i p_i g_i."""
    step = {"epochs": 1, "batch_size": 36, "weight_decay": 0.0, "lr": 0.2}
    model = build(plan.model, plan.seed)
    images = torch.cat([site.train.images for site in cohort.training])
    labels = torch.cat([site.train.labels for site in cohort.training]).long()
    for _ in range(plan.rounds):
        loss = torch.nn.functional.cross_entropy(model(plan.normalisation(images)), labels)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter -= 0.2 * grad
    state, control, own, _ = served(having(plan, step, aggregate="scaffold"), cohort.training)
    close(state, model.state_dict())
    assert_c_is_the_mean(control, own, cohort.training)


def test_with_the_same_images_everywhere_it_is_federated_averaging(plan, cohort):
    """Full batches, so the order of images is nothing: c_i = c in every round; nothing is corrected."""
    sites = [replace(cohort.training[0], name=site.name) for site in cohort.training]
    full = {"batch_size": 36, "epochs": 4}
    state, control, own, _ = served(having(plan, full, aggregate="scaffold"), sites)
    close(state, served(having(plan, full), sites)[0])
    for c_i in own.values():
        close(control, c_i)


def quadratic(method, rounds=400, lr=0.1, steps=10, step=1.0):
    """f_1 = (y - 1)^2 / 2 and f_2 = 4 (y + 1)^2 / 2 at two hospitals of equal size, by hand."""
    hospitals = {"one": (1.0, 1.0), "two": (4.0, -1.0)}
    x, c = torch.tensor([3.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    own = dict.fromkeys(hospitals, c)
    for round in range(rounds):
        updates = []
        for name, (a, b) in hospitals.items():
            y, correction = x.clone(), c - own[name] if method == "scaffold" else 0.0
            for _ in range(steps):
                y = y - lr * (a * (y - b) + correction)
            updates.append(Update(name, {"w": y}, 10.0))
        now = {"w": c}, {"w": x}

        class Round:
            images = 20.0

            def change(self, update, now=now):
                return change(*now, update.state, {"w": lr * steps})

        context = AggregationContext({"w": x}, round, 0, control=Round())
        if method == "scaffold":
            own = {u.site: own[u.site] + Round().change(u)["w"] for u in updates}
        found = AGGREGATORS[method].call(iter(updates), context)
        c = c if found.control is None else c + found.control["w"]
        x = x + step * (found.state["w"] - x)
    return float(x), float(c), {name: float(value) for name, value in own.items()}


def test_on_quadratics_it_finds_the_optimum_where_averaging_drifts():
    """The optimum of f_1 + f_2 is (1 - 4) / (1 + 4) = -0.6, where the gradients are -1.6 and 1.6.

    K steps take y - b to (1 - lr a)^K of itself, so averaging stands still at sum (1 - r_i) b_i / sum (1 -
    r_i) with r_1 = 0.9^10, r_2 = 0.6^10: far from the optimum. Control variates are the gradients there.
    """
    r = [1 - 0.9**10, 1 - 0.6**10]
    assert quadratic("mean")[0] == pytest.approx((r[0] - r[1]) / sum(r), abs=1e-9)
    assert abs(quadratic("mean")[0] + 0.6) > 0.3
    x, c, own = quadratic("scaffold")
    assert x == pytest.approx(-0.6, abs=1e-9)
    assert c == pytest.approx(0.0, abs=1e-9)
    assert own == {"one": pytest.approx(-1.6, abs=1e-9), "two": pytest.approx(1.6, abs=1e-9)}


def test_the_server_s_step_size_is_that_of_the_server_optimizer(plan, cohort):
    """x + s (mean - x), as in the paper, after one round."""
    one = plan.model_copy(update={"rounds": 1})
    start = build(plan.model, plan.seed).state_dict()
    step = {"method": "fedavgm", "momentum": 0.0, "lr": 0.25}
    whole = served(having(one, aggregate="scaffold"), cohort.training)[0]
    part = served(having(one, aggregate="scaffold", optimizer=step), cohort.training)[0]
    close(part, {key: start[key] + 0.25 * (whole[key] - start[key]) for key in start})


def test_an_update_that_does_not_arrive_changes_no_control_variate(plan, uneven):
    """Beta's second update is refused, its third arrives: c stays the mean of all c_i."""
    fault = {"kind": "nan", "site": "beta", "rounds": [2]}
    changed = having(plan, aggregate="scaffold", faults=[fault])
    _, control, own, failures = served(changed, uneven.training)
    assert [(f.round, f.site, f.then) for f in failures] == [(2, "beta", "left out")]
    assert_c_is_the_mean(control, own, uneven.training)


@pytest.mark.parametrize("recipe", ["lp-ft", "linear-probe"])
def test_c_is_the_mean_also_where_the_head_learns_alone(plan, uneven, recipe):
    _, control, own, _ = served(having(plan, {"recipe": recipe}, aggregate="scaffold"), uneven.training)
    assert_c_is_the_mean(control, own, uneven.training)
    encoder = next(iter(control))
    assert bool(control[encoder].abs().max() > 0) is (recipe == "lp-ft")
