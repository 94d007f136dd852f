"""Fault injection: drawn by the seed, done by the hospital, seen by the server, and always on record."""

import time
from dataclasses import replace

import pytest
from facts import refused

from fedmerge.federation import FederationOptions, server_app, simulate
from fedmerge.federation.checks import trained
from fedmerge.federation.plan.fault_injection import KINDS, Fault, check_sites, faults_for
from fedmerge.models import average, build, state_hash
from fedmerge.seeding import Draws
from fedmerge.training import fit

ROUND = 1


def serve(plan, sites, **rules):
    """The model after the plan's rounds, and the strategy."""
    kept = []

    def programme(server):
        kept.extend([server.rounds(server.start()), server.strategy])

    options = FederationOptions.model_validate(rules)
    simulate(server_app(plan.model_copy(update={"federation": options}), programme), sites)
    return kept


@pytest.fixture
def once(plan):
    """A plan of one round."""
    return plan.model_copy(update={"rounds": 1})


@pytest.fixture
def parts(once, cohort):
    """What was sent, and what each hospital makes of it in round 1."""
    sent = build(once.model, once.seed).state_dict()
    return sent, {site.name: trained_by(once, site, sent) for site in cohort.training}


def trained_by(plan, site, state):
    model = build(plan.model, plan.seed)
    model.load_state_dict(state)
    draws = Draws(plan.seed, "round", ROUND, site.name)
    fit(model, site.train.images, site.train.labels, plan.local, normalise=plan.normalisation, draws=draws)
    return {key: value.clone() for key, value in model.state_dict().items()}


def mean_of(cohort, parts, **changes):
    """The round's mean with other updates for some hospitals; None leaves one out."""
    updates = parts[1] | changes
    sites = [site for site in cohort.training if updates[site.name] is not None]
    return average([updates[site.name] for site in sites], [float(len(site.train)) for site in sites])


def told(strategy):
    return [(f.site, f.kind, f.then, f.injected) for f in strategy.failures]


# --- the draw


def test_a_fault_strikes_with_its_probability_alone_in_its_place():
    """2,000 draws with p = 0.3: 600 of them, give or take four standard deviations of sqrt(2000 * 0.21)."""
    plan = [Fault(kind="nan", probability=0.3), Fault(kind="crash", probability=0.3)]
    hits = [faults_for(plan, 0, round, f"s{site}") for round in range(1, 101) for site in range(20)]
    for kind in ("nan", "crash"):
        share = sum(any(fault.kind == kind for fault in found) for found in hits)
        assert abs(share - 600) < 4 * (2000 * 0.21) ** 0.5
    both = sum(len(found) == 2 for found in hits)
    assert abs(both - 180) < 4 * (2000 * 0.09 * 0.91) ** 0.5  # two draws, not one
    assert hits == [faults_for(plan, 0, round, f"s{site}") for round in range(1, 101) for site in range(20)]
    assert hits != [faults_for(plan, 1, round, f"s{site}") for round in range(1, 101) for site in range(20)]


def test_an_entry_at_the_end_changes_nothing_about_the_others():
    plan = [Fault(kind="nan", probability=0.5), Fault(kind="stale", probability=0.5)]
    longer = [*plan, Fault(kind="crash", probability=0.5)]
    for round in range(1, 50):
        assert faults_for(longer, 3, round, "a")[: len(faults_for(plan, 3, round, "a"))] == faults_for(
            plan, 3, round, "a"
        )


def test_site_rounds_and_attempts_say_where():
    fault = Fault(kind="crash", site=("a", "b"), rounds=(2, 4), attempts=1)
    found = {
        (site, round, attempt)
        for site in "abc"
        for round in range(1, 6)
        for attempt in (1, 2)
        if faults_for([fault], 0, round, site, attempt)
    }
    assert found == {("a", 2, 1), ("a", 4, 1), ("b", 2, 1), ("b", 4, 1)}
    with refused("alhpa", "alpha"):
        check_sites([Fault(kind="nan", site="alhpa")], ["alpha", "beta"])
    check_sites([Fault(kind="nan")], ["alpha"])


# --- what each does


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "crash"}, "error"),
        ({"kind": "hang"}, "late"),
        ({"kind": "slow", "seconds": 90}, "late"),
        ({"kind": "nan"}, "refused"),
        ({"kind": "wrong-shape"}, "refused"),
        ({"kind": "huge-norm"}, "refused"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_on_record(once, cohort, parts, fault, kind):
    """A deadline of 60 s is far above the milliseconds of training; nothing is really waited for. An honest
    update is less than 5 long, a thousandfold one is not."""
    began = time.monotonic()
    faults = [fault | {"site": "beta"}]
    merged, strategy = serve(once, cohort.training, faults=faults, deadline=60, max_norm=5.0)
    assert told(strategy) == [("beta", kind, "left out", fault["kind"])]
    assert state_hash(merged) == state_hash(mean_of(cohort, parts, beta=None))
    assert time.monotonic() - began < 60
    assert [row["site"] for row in strategy.history if row["phase"] == "train"] == ["alpha", "gamma"]


@pytest.mark.parametrize("scale", [None, -1.0])
def test_a_huge_norm_is_the_update_times_a_number(once, cohort, parts, scale):
    """theta_sent + c (theta - theta_sent) for what is trained; -1 turns the update round."""
    fault = {"kind": "huge-norm", "site": "beta"} | ({} if scale is None else {"scale": scale})
    merged, strategy = serve(once, cohort.training, faults=[fault])
    sent, beta = parts[0], dict(parts[1]["beta"])
    factor = 1000.0 if scale is None else scale
    for key in trained(sent):
        beta[key] = (sent[key].double() + factor * (beta[key].double() - sent[key].double())).float()
    assert told(strategy) == [("beta", "injected", "counted", "huge-norm")]
    assert state_hash(merged) == state_hash(mean_of(cohort, parts, beta=beta))


def test_a_label_flip_is_training_with_the_classes_the_other_way_round(once, cohort, parts):
    beta = cohort["beta"]
    flipped = replace(beta, train=replace(beta.train, labels=2 - beta.train.labels))
    hostile = trained_by(once, flipped, parts[0])
    assert state_hash(hostile) != state_hash(parts[1]["beta"])
    merged, strategy = serve(once, cohort.training, faults=[{"kind": "label-flip", "site": "beta"}])
    assert told(strategy) == [("beta", "injected", "counted", "label-flip")]
    assert state_hash(merged) == state_hash(mean_of(cohort, parts, beta=hostile))
    assert beta.train.labels.equal(cohort["beta"].train.labels)


def test_a_stale_answer_is_what_was_sent(once, cohort, parts):
    merged, strategy = serve(once, cohort.training, faults=[{"kind": "stale", "site": "beta"}])
    assert told(strategy) == [("beta", "injected", "counted", "stale")]
    assert state_hash(merged) == state_hash(mean_of(cohort, parts, beta=parts[0]))


def test_slow_within_the_deadline_changes_no_bit_but_is_on_record(once, cohort, parts):
    faults = [{"kind": "slow", "seconds": 30, "site": "beta"}]
    merged, strategy = serve(once, cohort.training, faults=faults, deadline=60)
    assert state_hash(merged) == state_hash(mean_of(cohort, parts))
    assert told(strategy) == [("beta", "injected", "counted", "slow")]
    (row,) = [r for r in strategy.history if r["phase"] == "train" and r["site"] == "beta"]
    assert row["delay"] == 30


# --- rules and faults together


def test_a_crash_that_happens_once_leaves_no_trace_in_the_model_when_asked_again(once, cohort, parts):
    faults = [{"kind": "crash", "site": "alpha", "attempts": 1}]
    merged, strategy = serve(once, cohort.training, faults=faults, on_failure="retry")
    assert state_hash(merged) == state_hash(mean_of(cohort, parts))
    assert told(strategy) == [("alpha", "error", "asked again", "crash")]


def test_who_is_late_is_not_asked_again_who_crashes_is(once, cohort):
    faults = [{"kind": "hang", "site": "alpha"}, {"kind": "crash", "site": "beta"}]
    rules = {"on_failure": "retry", "retries": 2, "deadline": 60}
    _, strategy = serve(once, cohort.training, faults=faults, **rules)
    assert [(f.site, f.attempt, f.then) for f in strategy.failures] == [
        ("alpha", 1, "left out"),
        ("beta", 1, "asked again"),
        ("beta", 2, "asked again"),
        ("beta", 3, "left out"),
    ]
    assert strategy.failures[0].reason == "no reply within the deadline of 60 s"


def test_the_quorum_counts_who_is_left_after_all_attempts(once, cohort):
    faults = [{"kind": "nan", "site": ["alpha", "beta"]}]
    with refused("1", "3", "2", "numbers"):
        serve(once, cohort.training, faults=faults, quorum=2, on_failure="retry")
    with refused("alpha", "hospital", "1"):
        serve(once, cohort.training, faults=faults, on_failure="abort")


def test_training_that_takes_longer_than_the_deadline_is_late_by_its_own_clock(once, cohort):
    """Every training takes more than a microsecond, so none is in time."""
    with refused("0", "3", "deadline", "1e-06"):
        serve(once, cohort.training, deadline=1e-6)


def test_a_robust_aggregator_does_not_mind_what_breaks_the_mean(once, cohort, parts):
    faults = [{"kind": "huge-norm", "site": "beta", "scale": -1e6}]
    spoilt, _ = serve(once, cohort.training, faults=faults)
    held, _ = serve(once, cohort.training, faults=faults, aggregate="median")
    honest = mean_of(cohort, parts)

    def away(state):
        return max(float((state[key] - honest[key]).abs().max()) for key in trained(state))

    assert away(held) < 1 < 1e3 < away(spoilt)


def test_the_same_plan_and_seed_are_the_same_run(plan, cohort):
    """Gamma is honest, so that every round has one answer."""
    faults = [{"kind": k, "probability": 0.2, "site": ["alpha", "beta"]} for k in KINDS if k != "slow"]
    rules = {"faults": faults, "deadline": 60, "on_failure": "retry", "retries": 2}
    runs = [serve(plan, cohort.training, **rules) for _ in range(2)]
    assert state_hash(runs[0][0]) == state_hash(runs[1][0])
    assert runs[0][1].failures == runs[1][1].failures != []
    _, strategy = serve(plan.model_copy(update={"seed": 1}), cohort.training, **rules)
    assert told(strategy) != told(runs[0][1])
