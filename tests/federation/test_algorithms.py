"""Round algorithms in a federation: each is its plain loop, bit for bit."""

import pytest
from facts import refused

from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.federation.plan.personal import personal_entries
from fedmerge.federation.plan.server_optimizer import ServerOptimizer, ServerOptimizerOptions
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import build, state_hash
from fedmerge.training import TrainingOptions
from tests.federation.rounds_by_hand import (
    ADAPTIVE,
    LOCAL,
    PRIVATE,
    SECURE,
    SIMULATED,
    both,
    having,
    mean,
    protected,
    serve,
    trained,
)

TUNED = TrainingOptions(lr=0.02, batch_size=12)


def test_the_server_optimizer_steps_from_what_was_sent_towards_the_mean(plan, cohort):
    """FedAdam over parameters alone; with personal norms those are the plain mean, too."""
    options = ServerOptimizerOptions(method="fedadam", lr=0.02)
    for personal in ("none", "norms"):
        own = personal_entries(plan.model, personal)
        names = [name for name, _ in build(plan.model, 0).named_parameters() if name not in own]
        optimizer, kept = ServerOptimizer(options, names), {site.name: {} for site in cohort.training}
        state = build(plan.model, plan.seed).state_dict()
        for round in (1, 2):
            states = [trained(plan, site, state | kept[site.name], round) for site in cohort.training]
            for site, new in zip(cohort.training, states, strict=True):
                kept[site.name] = {key: new[key] for key in own}
            state = optimizer.step(state, mean(states, cohort.training))
        changed = having(plan, optimizer={"method": "fedadam", "lr": 0.02}, personal=personal)
        merged = serve(changed, cohort, lambda server: server.rounds(server.start()))
        assert state_hash(merged) == state_hash(state)


def test_fedprox_is_local_training_with_mu(plan, cohort):
    held = plan.model_copy(update={"local": plan.local.model_copy(update={"proximal": 0.5})})
    state = build(plan.model, plan.seed).state_dict()
    for round in (1, 2):
        state = mean([trained(held, site, state, round) for site in cohort.training], cohort.training)
    merged = serve(held, cohort, lambda server: server.rounds(server.start()))
    assert state_hash(merged) == state_hash(state)


def test_all_hospitals_fine_tune_whoever_took_part_in_the_rounds(plan, cohort):
    some = Participation(number=2)
    clients = ClientRegistry(Client(0, site.name, 0, 0, ()) for site in cohort.training)
    state = build(plan.model, plan.seed).state_dict()
    for round in (1, 2):
        names = [member.name for member in participants(clients, some, plan.seed, round)]
        sites = [cohort[name] for name in names]
        state = mean([trained(plan, site, state, round) for site in sites], sites)
    merged, tuned = serve(having(plan, participation={"number": 2}), cohort, both)
    assert state_hash(merged) == state_hash(state)
    for site in cohort.training:
        assert state_hash(tuned[site.name]) == state_hash(trained(plan, site, state, 3))


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"rounds": 0}, {"personal": "norms"}, ("personal", "training.rounds", "0")),
        ({}, {"participation": {"number": 4}}, ("3", "hospitals", "train")),
        ({}, {"privacy": PRIVATE}, ("small-cnn", "running", "statistics")),
        ({"fine_tune": TUNED}, {"privacy": PRIVATE}, ("fine-tuned", "model", "training.fine_tune")),
        ({"rounds": 0}, {"privacy": PRIVATE}, ("rounds", "training.rounds", "0")),
        ({}, {"privacy": PRIVATE, "aggregate": "median"}, ("mean", "updates", "median")),
        ({}, SECURE | {"aggregate": "median"}, ("mean", "updates", "median")),
        ({"fine_tune": TUNED}, SECURE, ("fine-tuned", "model", "training.fine_tune")),
        ({}, SECURE | {"privacy": PRIVATE}, ("federation.privacy", "update")),
        ({}, {"privacy": LOCAL, "aggregate": "greedy"}, ("greedy", "asks", "hospitals")),
        ({"fine_tune": TUNED}, {"privacy": LOCAL}, ("fine-tuned", "model", "training.fine_tune")),
        ({}, {"privacy": PRIVATE, "personal": "head"}, ("journal", "hospital's", "part")),
        (
            {},
            SECURE | {"faults": [{"kind": "nan"}]},
            ("nan", "weights"),
        ),
        ({}, {"faults": [{"kind": "nan", "rounds": [9]}]}, ("9", "beyond", "3")),
        ({}, SECURE | {"personal": "norms"}, ("journal", "part")),
        ({}, SECURE | {"participation": {"number": 2}}, ("3", "hospitals", "2")),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_the_first_round(plan, cohort, changes, options, sentence):
    without = {"fine_tune": None} if "privacy" in options or "secure_aggregation" in options else {}
    changed = having(plan, **options).model_copy(update=without | changes)
    with refused(*sentence):
        serve(changed, cohort, lambda server: None)


@pytest.mark.parametrize(
    "options",
    [
        {"personal": "norms", "optimizer": "fedadam", "participation": {"number": 2}},
        {"personal": "head", "aggregate": "greedy"},
        {"aggregate": "scaffold", "participation": {"number": 2}},
        {"privacy": SIMULATED, "optimizer": "fedadam"},
        {"privacy": ADAPTIVE | {"simulate": True}},
        {"privacy": LOCAL | {"simulate": True}},
        SECURE,
    ],
)
def test_interrupted_rounds_go_on_with_the_same_bits(plan, cohort, tmp_path, options):
    """After two of four rounds all processes end; new hospitals, with nothing in memory, take up the journal.

    Masks are drawn anew, but they cancel exactly, so secure rounds are equal bit for bit too.
    """
    changed = (protected if "privacy" in options or options is SECURE else having)(plan, **options)
    plain = {"momentum": 0.0} if "scaffold" in options.values() else {}
    changed = changed.model_copy(update={"rounds": 4, "local": plan.local.model_copy(update=plain)})
    whole, tuned = serve(changed, cohort, both)

    def killed(server):
        go_on = server.strategy.round

        def until_the_third(grid, number, state):
            if number == 3:
                raise KeyboardInterrupt
            return go_on(grid, number, state)

        server.strategy.round = until_the_third
        server.rounds(server.start(), RoundJournal(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        serve(changed, cohort, killed)

    def resumed(server):
        state = server.rounds(server.start(), RoundJournal(tmp_path))
        return state, {name: new for name, new, _ in server.fine_tune(state)}, server.strategy.history

    again, tuned_again, history = serve(changed, cohort, resumed)
    assert state_hash(again) == state_hash(whole)
    assert {name: state_hash(s) for name, s in tuned_again.items()} == {
        name: state_hash(s) for name, s in tuned.items()
    }
    assert {row["round"] for row in history if row["phase"] == "train"} == {1, 2, 3, 4}
