"""Fusion methods as aggregators: a round ends where the fusion of its hospitals' models ends."""

import pytest
import torch
from facts import refused
from pydantic import ValidationError

from fedmerge.data import concat
from fedmerge.data.cohort.fusion import share
from fedmerge.federation import FederationOptions, server_app, simulate
from fedmerge.federation.aggregators.fused import _decisions
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.merging import merge
from fedmerge.merging.methods import Merged
from fedmerge.models import build, predict, state_hash
from fedmerge.seeding import Draws, derive
from fedmerge.training import fit


def one_round(plan, cohort, **options):
    """A round under these federation options: the model after it, and the rows about hospitals."""
    changed = plan.model_copy(update={"rounds": 1, "federation": FederationOptions(**options)})
    kept = []

    def programme(server):
        state = server.rounds(server.start())
        kept.append((state, [row for row in server.strategy.history if row["phase"] == "aggregate"]))

    simulate(server_app(changed, programme), cohort.training)
    return kept[0]


def trained(plan, cohort, names):
    """The networks of these hospitals after their first round."""
    networks = []
    for name in names:
        model, site = build(plan.model, plan.seed), cohort[name]
        where = Draws(plan.seed, "round", 1, name)
        fit(
            model, site.train.images, site.train.labels, plan.local, normalise=plan.normalisation, draws=where
        )
        networks.append(model.eval())
    return networks


def accuracy_on(plan, cohort, names):
    """The score of a state on the validation images of these hospitals together."""
    val = concat([cohort[name].val for name in names])
    model = build(plan.model, plan.seed)

    def score(state):
        model.load_state_dict(state)
        return float((predict(model, val.images, plan.normalisation).argmax(1) == val.labels).double().mean())

    return score


EVERYONE = ["alpha", "beta", "gamma"]


@pytest.mark.parametrize("name", ["greedy", "greedy-v1", "greedy-v2"])
def test_a_greedy_round_is_the_greedy_soup_of_its_hospitals(plan, cohort, name):
    """Scored by those two of the three that took part, and by nobody else."""
    clients = ClientRegistry(Client(0, site, 0, 0, ()) for site in EVERYONE)
    drawn = [m.name for m in participants(clients, Participation(number=2), plan.seed, 1)]
    state, rows = one_round(plan, cohort, aggregate=name, participation={"number": 2})
    networks = trained(plan, cohort, drawn)
    expected = merge(networks, name, names=drawn, score=accuracy_on(plan, cohort, drawn))
    assert state_hash(state) == state_hash(expected.model.state_dict())
    assert {row["site"]: row["share"] for row in rows} == expected.coefficients
    assert [row["site"] for row in rows] == drawn
    logged = {row["model"]: row["score_alone"] for row in expected.decisions}
    assert {row["site"]: row["score_alone"] for row in rows} == pytest.approx(logged)


def test_the_row_of_a_start_that_is_tried_again_says_that_it_was_taken():
    """greedy-v1: b is the start, a is taken, and b with both is worse."""
    log = [("b", 0.6, True), ("a", 0.7, True), ("b", 0.5, False)]
    decisions = [{"model": m, "score_with": score, "accepted": accepted} for m, score, accepted in log]
    result = Merged(torch.nn.Identity(), {"a": 0.5, "b": 0.5}, decisions)
    assert _decisions(["a", "b"], result) == (
        {"site": "a", "share": 0.5, "score_with": 0.7, "accepted": True},
        {"site": "b", "share": 0.5, "score_with": 0.6, "accepted": True},
    )


@pytest.mark.parametrize("name", ["task-arithmetic", "ties", "dare", "model-stock"])
def test_task_vectors_of_a_round_begin_at_what_was_sent(plan, cohort, name):
    state, rows = one_round(plan, cohort, aggregate=name)
    expected = merge(
        trained(plan, cohort, EVERYONE),
        name,
        names=EVERYONE,
        examples=[len(cohort[site].train) for site in EVERYONE],
        start=build(plan.model, plan.seed),
        seed=derive(plan.seed, "aggregate", 1),
    )
    assert state_hash(state) == state_hash(expected.model.state_dict())
    assert [row["site"] for row in rows] == EVERYONE


@pytest.mark.parametrize(("name", "after"), [("kf", "none"), ("hf", "none"), ("hf", "repair")])
def test_matching_in_a_round_is_that_on_the_images_which_stay_in_the_hospitals(plan, cohort, name, after):
    """On 20 of each hospital's training images."""
    state, _ = one_round(plan, cohort, aggregate={"method": name, "images": 20, "after": after})
    shares = [share(cohort[site], 20, "train", plan.seed) for site in EVERYONE]
    images = plan.normalisation(concat(shares).images)
    seed = derive(plan.seed, "aggregate", 1)
    networks = trained(plan, cohort, EVERYONE)
    given = {"data": images, "after": after, "seed": seed}
    expected = merge(networks, name, names=EVERYONE, **given).model.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4)


def test_rounds_by_matching_go_on_from_each_other(plan, cohort):
    """Two rounds of kf: every hospital takes part in both, and the second model is another one."""
    changed = plan.model_copy(
        update={"federation": FederationOptions(aggregate={"method": "kf", "images": 20})}
    )
    seen = []

    def programme(server):
        state = server.start()
        for round in (1, 2):
            state = server.strategy.round(server.grid, round, state)
            seen.append(state_hash(state))
        assert server.strategy.failures == []
        assert sum(row["phase"] == "train" for row in server.strategy.history) == 6

    simulate(server_app(changed, programme), cohort.training)
    assert len(set(seen)) == 2


def test_hospitals_with_too_few_images_end_the_run_with_a_sentence(plan, cohort):
    """The validation splits have 12 images each."""
    with refused("sums", "16", "images"):
        one_round(plan, cohort, aggregate={"method": "kf", "split": "val"})


@pytest.mark.parametrize(
    ("aggregate", "sentence"),
    [
        ({"method": "kf", "images": 5}, ("greater", "equal", "16")),
        ({"method": "greedy", "images": 20}, ("greedy", "images", "option")),
        ({"method": "ensemble-logits"}, ("ensemble-logits", "unknown", "aggregator")),
    ],
)
def test_options_that_cannot_be_are_refused(aggregate, sentence):
    with refused(*sentence, kind=ValidationError):
        FederationOptions(aggregate=aggregate)
