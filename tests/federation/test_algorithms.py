"""Round algorithms in a federation: each is its plain loop, bit for bit."""

import pytest
import torch
from facts import refused

from fedmerge.federation import FederationOptions, server_app, simulate
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.messages.reading import job_of
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.federation.plan.personal import personal_entries
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.plan.server_optimizer import ServerOptimizer, ServerOptimizerOptions
from fedmerge.federation.privacy.accounting import epsilon
from fedmerge.federation.privacy.central import private_mean
from fedmerge.federation.privacy.noise import from_the_seed
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import average, build, state_hash
from fedmerge.seeding import Draws
from fedmerge.training import Segment, TrainingOptions, fit

PRIVATE, SECURE = {"clip": 1.0, "noise": 1.0}, {"secure_aggregation": True}
SIMULATED, LOCAL = PRIVATE | {"simulate": True}, PRIVATE | {"kind": "local"}
ADAPTIVE = {"kind": "adaptive", "noise": 1.0}
TUNED = TrainingOptions(lr=0.02, batch_size=12)


def having(plan, **options):
    return plan.model_copy(update={"federation": FederationOptions(**options)})


def serve(plan, cohort, programme):
    """Run ``programme(server)`` in a federation of the cohort's training sites; return what it returns."""
    kept = []
    simulate(server_app(plan, lambda server: kept.append(programme(server))), cohort.training)
    return kept[0]


def trained(plan, site, state, round):
    """A hospital's weights after its training in a round, or, in the one after the last, its fine-tuning."""
    model = build(plan.model, plan.seed)
    model.load_state_dict(state)
    last = round > plan.rounds
    fit(
        model,
        site.train.images,
        site.train.labels,
        plan.fine_tune if last else plan.local,
        normalise=plan.normalisation,
        draws=Draws(plan.seed, purpose="fine-tune" if last else "round", round=round, site=site.name),
        segment=Segment() if last else Segment(((round - 1) / plan.rounds, round / plan.rounds)),
    )
    return model.state_dict()


def mean(states, sites):
    return average(states, [float(len(site.train)) for site in sites])


def both(server):
    """The global model after the rounds, and each hospital's after its fine-tuning."""
    state = server.rounds(server.start())
    return state, {name: tuned for name, tuned, _ in server.fine_tune(state)}


@pytest.mark.parametrize("personal", ["norms", "head"])
def test_a_personal_part_begins_each_round_as_its_hospital_left_it(plan, cohort, personal):
    keys = personal_entries(plan.model, personal)
    state, own = build(plan.model, plan.seed).state_dict(), {site.name: {} for site in cohort.training}
    for round in (1, 2):
        states = [trained(plan, site, state | own[site.name], round) for site in cohort.training]
        own = {
            site.name: {key: s[key] for key in keys} for site, s in zip(cohort.training, states, strict=True)
        }
        state = mean(states, cohort.training)
    merged, tuned = serve(having(plan, personal=personal), cohort, both)
    assert state_hash(merged) == state_hash(state)
    for site in cohort.training:
        expected = trained(plan, site, state | own[site.name], 3)
        assert state_hash(tuned[site.name]) == state_hash(expected)
    assert state_hash(merged) != state_hash(serve(plan, cohort, lambda server: server.rounds(server.start())))


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


def test_memories_are_told_and_restored_by_name(plan, cohort):
    """A second server with the first one's memories fine-tunes as the first does, without them not."""
    changed = having(plan, personal="norms")

    def first(server):
        state = server.rounds(server.start())
        return state, server.memories(), {name: tuned for name, tuned, _ in server.fine_tune(state)}

    state, memories, expected = serve(changed, cohort, first)
    assert list(memories) == [site.name for site in cohort.training]
    for kept, same in ((memories, True), ({}, False)):

        def second(server, kept=kept):
            server.restore(kept)
            return {name: tuned for name, tuned, _ in server.fine_tune(state)}

        found = serve(changed, cohort, second)
        assert all((state_hash(found[name]) == state_hash(expected[name])) is same for name in found)


def test_without_a_personal_part_nothing_is_asked_about_memory(plan, cohort):
    assert serve(plan, cohort, lambda server: server.memories()) == {}


def test_a_hospital_that_lost_its_part_begins_anew_and_that_is_recorded(plan, cohort):
    """Its memory is taken away after the rounds, as a new process would."""

    def programme(server):
        state = server.rounds(server.start())
        memories = server.memories()
        server.restore({name: kept for name, kept in memories.items() if name != "beta"})
        tuned = {name: new for name, new, _ in server.fine_tune(state)}
        return state, tuned, server.strategy.failures, server.strategy.history

    state, tuned, failures, history = serve(having(plan, personal="norms"), cohort, programme)
    assert [(f.round, f.phase, f.site, f.then) for f in failures] == [(3, "fine-tune", "beta", "began anew")]
    assert "as it was after round 2" in failures[0].reason
    assert state_hash(tuned["beta"]) == state_hash(trained(plan, cohort["beta"], state, 3))
    assert not any("forgot" in row or row["phase"] == "memory" for row in history)


def protected(plan, **options):
    """The plan with group norm, and no model but that of the rounds."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    return having(plan, **options).model_copy(update={"model": model, "fine_tune": None})


@pytest.mark.parametrize("simulate", [True, False])
def test_central_privacy_is_the_private_mean_and_tells_what_each_hospital_spent(plan, cohort, simulate):
    """Two of three hospitals a round: each row's epsilon is that of its own number of rounds.

    Simulated noise can be drawn again, so that the model can be compared; then there is no epsilon.
    """
    options = CentralPrivacy(clip=0.5, noise=2.0, simulate=simulate)
    some = Participation(number=2)
    changed = protected(plan, privacy=options.model_dump(), participation={"number": 2})
    changed = changed.model_copy(update={"rounds": 3})
    clients = ClientRegistry(Client(0, site.name, 0, 0, ()) for site in cohort.training)
    state, taken = build(changed.model, plan.seed).state_dict(), dict.fromkeys("abg", 0)
    expected = []
    for round in (1, 2, 3):
        names = [member.name for member in participants(clients, some, plan.seed, round)]
        states = [trained(changed, cohort[name], state, round) for name in names]
        state = private_mean(state, states, options, 2, 0.5, from_the_seed(plan.seed, "noise", round)).state
        for name in names:
            taken[name[0]] += 1
        expected.append({name: count for name, count in taken.items() if count})

    def programme(server):
        return server.rounds(server.start()), server.strategy.history, list(server.fine_tune(state))

    merged, history, tuned = serve(changed, cohort, programme)
    assert (state_hash(merged) == state_hash(state)) is simulate
    assert tuned == []
    if simulate:
        assert not any("epsilon" in row or row["phase"] == "aggregate" for row in history)
        return
    for round, counts in enumerate(expected, 1):
        rows = [row for row in history if (row["round"], row["phase"]) == (round, "aggregate")]
        assert {row["site"][0]: row["epsilon"] for row in rows} == {
            name: epsilon(options, count) for name, count in counts.items()
        }
        assert {row["site"][0]: row["releases"] for row in rows} == counts
        assert {row["delta"] for row in rows} == {1e-5}


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_secure_aggregation_gives_the_mean_of_the_same_rounds(plan, cohort, norm):
    """To rounding of 2^-31 a round, which training may enlarge a little."""
    secure = protected(plan, secure_aggregation=True)
    secure = secure.model_copy(
        update={"model": plan.model.model_copy(update={"options": {"width": 4, "norm": norm}})}
    )
    plain = secure.model_copy(update={"federation": FederationOptions()})
    merged, open_ = (serve(p, cohort, lambda server: server.rounds(server.start())) for p in (secure, plain))
    for key, value in open_.items():
        if value.is_floating_point():
            torch.testing.assert_close(merged[key], value, rtol=1e-4, atol=1e-6)


def test_a_round_that_loses_a_hospital_between_the_exchanges_leaves_the_model_as_it_was(
    plan, cohort, monkeypatch
):
    """Beta answers nothing in the second exchange of round 1; the sum of round 2 is whole."""
    secure = protected(plan, secure_aggregation=True)
    answer = SecureHospital.masked

    def vanishing(self, message):
        if self.name == "beta" and job_of(message)["label"].endswith("train 1"):
            raise RuntimeError("the power went")
        return answer(self, message)

    monkeypatch.setattr(SecureHospital, "masked", vanishing)
    after = {}

    def programme(server):
        state = server.start()
        for round in (1, 2):
            after[round - 1] = state_hash(state)
            state = server.strategy.round(server.grid, round, state)
        after[2] = state_hash(state)
        return server.strategy.failures

    failures = serve(secure, cohort, programme)
    assert after[0] == after[1] != after[2]
    assert [(f.round, f.phase, f.site, f.then) for f in failures] == [
        (1, "sum", "beta", "left out"),
        (1, "sum", "everyone", "round void"),
    ]


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
