"""SCAFFOLD's control variates at a hospital and in its messages: kept, checked, and within its rules."""

import json

import pytest
import torch

from fedmerge.data import Cohort
from fedmerge.federation import server_app, simulate
from fedmerge.federation.hospital.control import HospitalControl
from fedmerge.federation.messages.client_state import ClientState
from fedmerge.federation.messages.control_variates import rate_sums
from fedmerge.federation.messages.jobs import TrainJob
from fedmerge.federation.plan.train_config import fine_tune_config, round_config
from fedmerge.federation.policy.derived import check_job
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.server.control import ServerControl
from fedmerge.models import build
from fedmerge.training import TrainingOptions
from tests.facts import refused
from tests.federation.scaffold.serving import PLAIN, having, served


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
