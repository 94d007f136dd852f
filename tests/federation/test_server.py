"""A federation must be nothing but its parts: local training, averages in site order, counted scores."""

import gc
import weakref
from dataclasses import replace

import pytest
from facts import refused

from fedmerge.analysis import fit_temperature, scores
from fedmerge.data import concat
from fedmerge.federation import FederationOptions, Hospital, server_app, simulate
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.server import client_manager
from fedmerge.models import average, build, predict, start_file, state_hash
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.seeding import Draws, derive
from fedmerge.training import Segment, fit


def serve(plan, cohort, programme):
    """Run ``programme(server)`` in a federation of the cohort's training sites; return what it returns."""
    kept = []
    simulate(server_app(plan, lambda server: kept.append(programme(server))), cohort.training)
    return kept[0]


def trained(plan, site, state, options, round, purpose, span):
    model = build(plan.model, plan.seed)
    model.load_state_dict(state)
    fit(
        model,
        site.train.images,
        site.train.labels,
        options,
        normalise=plan.normalisation,
        draws=Draws(plan.seed, purpose=purpose, round=round, site=site.name),
        segment=Segment(span),
    )
    return model.state_dict()


def test_rounds_are_a_plain_loop_bit_for_bit(plan, cohort):
    state = build(plan.model, plan.seed).state_dict()
    for round in (1, 2):
        span = ((round - 1) / 2, round / 2)
        states = [trained(plan, site, state, plan.local, round, "round", span) for site in cohort.training]
        state = average(states, [float(len(site.train)) for site in cohort.training])
    federated = serve(plan, cohort, lambda server: server.rounds(server.start()))
    assert state_hash(federated) == state_hash(state)


def test_fine_tuning_is_each_hospital_s_own_from_the_shared_start(plan, cohort):
    federated = serve(plan, cohort, lambda server: {n: s for n, s, _ in server.fine_tune(server.start())})
    start = build(plan.model, plan.seed).state_dict()
    assert list(federated) == ["alpha", "beta", "gamma"]
    for site in cohort.training:
        own = trained(plan, site, start, plan.fine_tune, 3, "fine-tune", (0.0, 1.0))
        assert state_hash(federated[site.name]) == state_hash(own)


def test_an_independent_start_is_each_hospital_s_own_and_is_never_sent(plan, cohort, monkeypatch):
    """From the initialisation of seed derive(seed, "start", site): all different, none the server's."""
    own_plan = plan.model_copy(update={"rounds": 0, "start": "independent"})
    sent = []
    monkeypatch.setattr(
        client_manager, "request_message", lambda *args: sent.append(args[-1]) or request_message(*args)
    )
    federated = serve(own_plan, cohort, lambda s: {name: state for name, state, _ in s.fine_tune(s.start())})
    assert sent == [None] * 3
    for site in cohort.training:
        start = build(plan.model, derive(plan.seed, "start", site=site.name)).state_dict()
        own = trained(own_plan, site, start, plan.fine_tune, 1, "fine-tune", (0.0, 1.0))
        assert state_hash(federated[site.name]) == state_hash(own)
    assert len({state_hash(state) for state in federated.values()}) == 3


def test_a_server_can_not_make_a_hospital_read_a_file(plan, cohort, tmp_path, monkeypatch):
    """An independent start is drawn at the hospital, where the path that the server names could be read."""
    secret = tmp_path / "secret.safetensors"
    write_weights(secret, build(plan.model, 5).state_dict())
    reads = []
    monkeypatch.setattr(start_file, "load_weights", lambda path: reads.append(path) or load_weights(path))
    model = plan.model.model_copy(update={"pretrained": str(secret)})
    asking = plan.model_copy(update={"rounds": 0, "start": "independent", "model": model})
    with refused("start: shared"):
        serve(asking, cohort, lambda s: list(s.fine_tune({})))
    assert not reads


def test_without_rounds_the_start_stays(plan, cohort):
    still = plan.model_copy(update={"rounds": 0})
    start = build(plan.model, plan.seed).state_dict()
    assert state_hash(serve(still, cohort, lambda server: server.rounds(server.start()))) == state_hash(start)


def test_the_score_is_the_accuracy_on_the_pooled_validation_splits(plan, cohort):
    model = build(plan.model, plan.seed)
    val = concat([site.val for site in cohort.training])
    expected = scores(predict(model, val.images, plan.normalisation), val.labels)["accuracy"]
    assert serve(plan, cohort, lambda server: server.score(server.start())) == pytest.approx(expected)
    one = cohort["beta"].val
    alone = scores(predict(model, one.images, plan.normalisation), one.labels)["accuracy"]
    assert serve(plan, cohort, lambda server: server.score(server.start(), ["beta"])) == pytest.approx(alone)


def test_a_hospital_s_own_numbers_are_of_its_validation_images_with_a_temperature(plan, cohort):
    model, val = build(plan.model, plan.seed), cohort["beta"].val
    logits = predict(model, val.images, plan.normalisation)
    told = serve(plan, cohort, lambda server: server.own_numbers(server.start(), "beta"))
    assert told["temperature"] == fit_temperature(logits, val.labels)
    assert (told["num-examples"], told["accuracy"]) == (len(val), scores(logits, val.labels)["accuracy"])


def test_the_server_learns_numbers_never_images(plan, cohort, monkeypatch):
    """Every reply of a whole run is looked at: no array in it has an image's shape or a split's length."""
    from fedmerge.federation.grids import local

    seen = []
    deliver = local.LocalGrid.pull_messages

    def watch(self, ids):
        replies = deliver(self, ids)
        seen.extend(replies)
        return replies

    monkeypatch.setattr(local.LocalGrid, "pull_messages", watch)
    shapes = {tuple(value.shape) for value in build(plan.model, 0).state_dict().values()}
    sizes = []

    def programme(server):
        state = server.rounds(server.start())
        list(server.fine_tune(state))
        server.score(state)

    serve(plan, cohort, programme)
    for reply_message in seen:
        for record in reply_message.content.array_records.values():
            sizes += [tuple(array.shape) for array in record.values()]
        for record in reply_message.content.metric_records.values():
            for value in record.values():
                assert not isinstance(value, list) or len(value) == cohort.n_classes
    assert len(seen) == 3 * (
        1 + 2 * 2 + 1 + 1
    )  # greeting, two rounds of train and validate, fine-tune, score
    assert set(sizes) <= shapes


@pytest.mark.parametrize(("aggregate", "most"), [("mean", 1), ("median", 9)])
def test_the_mean_holds_one_update_however_many_hospitals(plan, cohort, monkeypatch, aggregate, most):
    """Each of ten hospitals looks how many updates of the round are alive when it is asked. For a mean the
    next is asked when the last one is added; a median needs all."""
    held, updates = [], []
    train = Hospital.train

    def watched(self, message):
        gc.collect()
        held.append(sum(ref() is not None for ref in updates))
        reply_message = train(self, message)
        array = next(iter(reply_message.content.array_records["arrays"].values()))
        updates.append(weakref.ref(array.numpy()))
        return reply_message

    monkeypatch.setattr(Hospital, "train", watched)
    sites = [replace(site, name=f"{site.name}-{i}") for i in range(4) for site in cohort.training][:10]
    rules = FederationOptions.model_validate({"aggregate": aggregate})
    changed = plan.model_copy(update={"federation": rules, "rounds": 1})
    simulate(server_app(changed, lambda server: server.rounds(server.start())), sites)
    assert (len(held), max(held)) == (10, most)


def test_hospitals_whose_loss_explodes_are_named_with_what_to_do(plan, cohort):
    """Without batch norm, a learning rate of 10 with momentum 0.99 overflows within an epoch or few."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "none"}})
    local = plan.local.model_copy(update={"lr": 10.0, "momentum": 0.99, "epochs": 40})
    wild = plan.model_copy(update={"model": model, "local": local})

    def programme(server):
        with refused("0", "3", "hospitals") as caught:
            server.rounds(server.start())
        return str(caught.value)

    text = serve(wild, cohort, programme)
    assert "lower training.lr" in text
    assert all(f"{name}" in text for name in ("alpha", "beta", "gamma"))


def test_the_same_plan_gives_the_same_bits(plan, cohort):
    first, second = (
        state_hash(serve(plan, cohort, lambda server: server.rounds(server.start()))) for _ in range(2)
    )
    other = plan.model_copy(update={"seed": 1})
    assert first == second
    assert state_hash(serve(other, cohort, lambda server: server.rounds(server.start()))) != first
