"""SCAFFOLD: its laws, by hand on quadratics and in federations of small networks."""

import json
from dataclasses import replace

import pytest
import torch

from fedmerge.data import Cohort
from fedmerge.federation import FederationOptions, FederationPlan, server_app, simulate
from fedmerge.federation.aggregators import AGGREGATORS, AggregationContext, Update
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.hospital.control import HospitalControl
from fedmerge.federation.messages.client_state import ClientState
from fedmerge.federation.messages.control_variates import change, rate_sums
from fedmerge.federation.messages.jobs import TrainJob
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.federation.plan.train_config import fine_tune_config, round_config
from fedmerge.federation.policy.derived import check_job
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.server.control import ServerControl
from fedmerge.models import average, build
from fedmerge.seeding import Draws
from fedmerge.training import Segment, TrainingOptions, fit
from tests.facts import refused

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.01, "schedule": "constant"}


@pytest.fixture
def plan(plan: FederationPlan) -> FederationPlan:
    """Three rounds of three epochs with group norm, so that no statistics are in the model."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    local = TrainingOptions(lr=0.05, batch_size=12, epochs=3, **PLAIN)
    return plan.model_copy(update={"model": model, "rounds": 3, "local": local, "fine_tune": None})


@pytest.fixture
def uneven(cohort: Cohort) -> Cohort:
    """Hospitals with 36, 24 and 36 images: two of the others' three steps an epoch."""
    fewer = replace(cohort["beta"], train=cohort["beta"].train.select(range(24)))
    return replace(cohort, sites=tuple(fewer if s.name == "beta" else s for s in cohort.sites))


def having(plan, local=(), **options):
    options = FederationOptions(**options)
    return plan.model_copy(update={"federation": options, "local": plan.local.model_copy(update=dict(local))})


def served(plan, sites):
    """The model after the rounds, c, every c_i, the failures."""
    kept = []

    def programme(server):
        state = server.rounds(server.start())
        control, strategy = server.strategy.control, server.strategy
        own = {
            name: {key.removeprefix("now/"): v for key, v in memory.items() if key.startswith("now/")}
            for name, memory in server.memories().items()
        }
        kept.append((state, control and control.sent(state), own, strategy.failures))

    simulate(server_app(plan, programme), sites)
    return kept[0]


def close(one, other, tolerance=1e-5):
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=tolerance, atol=tolerance)


def assert_c_is_the_mean(control, own, sites):
    """c = sum_i (n_i / n) c_i; a hospital that never took part has c_i = 0."""
    images = sum(len(site.train) for site in sites)
    for key, value in control.items():
        parts = [len(s.train) / images * own[s.name][key].double() for s in sites if own[s.name]]
        torch.testing.assert_close(value.double(), sum(parts), rtol=1e-4, atol=1e-6)
    assert max(float(value.abs().max()) for value in control.values()) > 1e-3


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


def test_a_hospital_that_lost_its_control_variate_begins_with_zero_and_that_is_on_record(plan, cohort):
    changed, kept = having(plan, aggregate="scaffold"), []

    def programme(server):
        state = server.strategy.round(server.grid, 1, server.start())
        memories = server.memories()
        server.restore({name: memory for name, memory in memories.items() if name != "beta"})
        server.strategy.round(server.grid, 2, state)
        kept.extend(server.strategy.failures)

    simulate(server_app(changed, programme), cohort.training)
    ((round, site, then, reason),) = [(f.round, f.site, f.then, f.reason) for f in kept]
    assert (round, site, then) == (2, "beta", "began anew")
    assert "control variate" in reason
    assert "round 1" in reason


def test_the_client_state_is_that_after_the_round_that_the_server_has():
    memory, other = ClientState(), ClientState()
    assert memory.after(0) == {}
    memory.keep(1, {"w": torch.tensor(1.0)}, 0)
    memory.keep(2, {"w": torch.tensor(2.0)}, 1)
    memory.keep(3, {"w": torch.tensor(3.0)}, 1)  # what round 2 gave did not arrive
    other.load_state_dict(memory.state_dict())
    for each in (memory, other):
        assert (each.after(3)["w"], each.after(1)["w"], each.after(2), each.after(0)) == (3, 1, None, {})


def job_of(plan, **changes):
    return json.loads(json.dumps(round_config(plan, 2) | {"since": 1} | changes))


def test_a_control_variate_that_is_not_finite_is_refused_by_the_hospital(plan):
    changed = having(plan, aggregate="scaffold")
    start = build(plan.model, 0).state_dict()
    control = ServerControl(plan.model).sent(start)
    name = next(iter(control))
    control[name] = control[name] + float("nan")
    with refused(f"'{name}'", "not finite"):
        HospitalControl(
            TrainJob.model_validate_json(json.dumps(job_of(changed))), start, control, ClientState(), 36
        )


def test_a_parameter_s_rates_are_those_of_the_steps_in_which_it_learns(plan):
    """30 images in batches of 12 are three steps an epoch; the rate of step s of 9 is half of 1 + cos."""
    options = TrainingOptions(
        lr=0.1, batch_size=12, epochs=3, recipe="lp-ft", **PLAIN | {"schedule": "cosine"}
    )
    rates = [0.1 * (1 + torch.cos(torch.tensor(torch.pi * s / 9)).item()) / 2 for s in range(9)]
    sums = rate_sums(plan.model, options, 30, (0.0, 1.0))
    (*encoder, weight, bias) = sums.values()
    assert [weight, bias] == pytest.approx([sum(rates)] * 2, rel=1e-5)
    assert encoder == pytest.approx([sum(rates[6:])] * len(encoder), rel=1e-5)
    probe = options.model_copy(update={"recipe": "linear-probe"})
    assert set(list(rate_sums(plan.model, probe, 30, (0.0, 1.0)).values())[:-2]) == {0}


@pytest.mark.parametrize("recipe", ["lp-ft", "linear-probe"])
def test_c_is_the_mean_also_where_the_head_learns_alone(plan, uneven, recipe):
    _, control, own, _ = served(having(plan, {"recipe": recipe}, aggregate="scaffold"), uneven.training)
    assert_c_is_the_mean(control, own, uneven.training)
    encoder = next(iter(control))
    assert bool(control[encoder].abs().max() > 0) is (recipe == "lp-ft")


@pytest.mark.parametrize(
    ("local", "options", "facts"),
    [
        ({"momentum": 0.9}, {}, ["scaffold", "momentum: 0.9", "training.momentum: 0"]),
        ({"optimizer": "adamw"}, {}, ["scaffold", "adamw", "training.optimizer: sgd"]),
        ({"proximal": 0.1}, {}, ["scaffold", "training.proximal"]),
        ({"first_layer_rate": 0.5}, {}, ["scaffold", "training.first_layer_rate"]),
        ({}, {"personal": "head"}, ["scaffold", "federation.personal"]),
        ({}, {"privacy": {"clip": 1.0, "noise": 1.0}}, ["scaffold", "federation.privacy"]),
        ({}, {"secure_aggregation": True}, ["scaffold", "federation.secure_aggregation"]),
    ],
)
def test_what_it_cannot_follow_is_refused(plan, cohort, local, options, facts):
    with refused(*facts):
        served(having(plan, local, aggregate="scaffold", **options), cohort.training)


def test_a_hospital_s_rules_know_its_jobs_and_no_other(plan):
    """In an approved experiment with it: the round's job, the client state; not in fine-tuning."""
    tuned = plan.model_copy(update={"fine_tune": plan.local})
    with_it, without = (Proposal(plan=having(tuned, aggregate=name)) for name in ("scaffold", "mean"))
    job = job_of(with_it.plan)
    assert check_job(with_it, "train", job, "alpha") == "train 2"
    assert check_job(with_it, "query.memory", {}, "alpha") == "memory"
    with refused("control"):
        check_job(without, "train", {k: v for k, v in job.items() if k != "since"}, "alpha")
    with refused("control"):
        check_job(
            with_it,
            "train",
            json.loads(json.dumps(fine_tune_config(with_it.plan))) | {"control": True},
            "alpha",
        )
    with refused("since"):
        check_job(with_it, "train", job | {"since": 2}, "alpha")


def test_a_message_to_a_hospital_is_longer_by_the_parameters_and_a_reply_is_not(plan, cohort: Cohort):
    sent, back = {}, {}
    for method in ("mean", "scaffold"):
        changed = having(plan, aggregate=method).model_copy(update={"rounds": 1})

        def programme(server, method=method):
            grid, ask = server.grid, server.strategy.send

            def counted(grid, messages):
                for message in messages:
                    if message.metadata.message_type == "train":
                        sent[method] = set(message.content["arrays"])
                replies = list(ask(grid, messages))
                for reply in replies:
                    if reply.metadata.message_type == "train":
                        back[method] = set(reply.content["arrays"])
                return replies

            server.strategy.send = counted
            server.strategy.round(grid, 1, server.start())

        simulate(server_app(changed, programme), cohort.training)
    names = [name for name, _ in build(plan.model, 0).named_parameters()]
    assert sent["scaffold"] - sent["mean"] == {f"control/{name}" for name in names}
    assert back["scaffold"] == back["mean"]
