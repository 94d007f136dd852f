"""What stays in a hospital: which entries, over which rounds, and that nothing but messages carries it."""

import pytest
import torch
from facts import refused
from flwr.app import Context, RecordDict

from fedmerge.federation import LocalGrid, client_app
from fedmerge.federation.arrays import borrow
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.messages.client_state import ClientState
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.plan.personal import personal_entries
from fedmerge.federation.plan.train_config import common_config, train_config
from fedmerge.models import ModelSpec, build, state_hash
from fedmerge.seeding import Draws
from fedmerge.training import fit


def state_of(message):
    return borrow(message.content["arrays"])


def spec(name: str = "small-cnn", **options) -> ModelSpec:
    return ModelSpec(name=name, in_channels=1, n_classes=3, image_size=8, options=options)


def entry(x: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([x])}


def test_norms_are_all_entries_of_batch_norm_layers_and_nothing_else():
    model = build(spec(), 0)
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    fields = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert personal_entries(spec(), "norms") == tuple(
        f"{layer}.{field}" for layer in layers for field in fields
    )
    assert len(layers) == 3


def test_the_head_is_the_layer_that_gives_the_logits():
    (weight, bias) = personal_entries(spec(), "head")
    state = build(spec(), 0).state_dict()
    assert state[weight].shape[0] == state[bias].shape[0] == 3
    assert weight.rpartition(".")[0] == bias.rpartition(".")[0]


def test_nothing_is_personal_by_default_and_group_norm_is_no_batch_norm():
    assert personal_entries(spec(), "none") == ()
    with refused("small-cnn", "choose", "model"):
        personal_entries(spec(norm="group"), "norms")


def test_a_repeated_round_begins_as_it_began_the_first_time():
    memory = ClientState()
    assert memory.recall(1) == {}
    memory.keep(1, entry(1))
    assert memory.recall(1) == {}
    memory.keep(1, entry(2))  # round 1 again
    assert memory.recall(1) == {}
    assert memory.recall(4)["w"] == 2  # it did not take part in rounds 2 and 3
    memory.keep(4, entry(5))
    assert memory.recall(4)["w"] == 2
    assert (memory.latest["w"], memory.recall(5)["w"]) == (5, 5)


def test_it_survives_as_a_state_and_an_empty_one_forgets():
    memory, other = ClientState(), ClientState()
    assert memory.state_dict() == {}
    memory.keep(1, entry(1))
    memory.keep(2, entry(2))
    other.load_state_dict(memory.state_dict())
    assert (other.round, other.recall(2)["w"], other.recall(3)["w"]) == (2, 1, 2)
    other.load_state_dict({})
    assert (other.round, other.recall(3)) == (0, {})


def test_numbers_that_are_not_finite_are_not_kept():
    memory = ClientState()
    memory.keep(1, entry(1))
    memory.keep(2, entry(float("nan")))
    assert (memory.round, memory.latest["w"]) == (1, 1)


@pytest.fixture
def training(plan, cohort):
    """A maker of training messages to one hospital: (round, the global weights, what is personal)."""
    LocalGrid(lambda message, context: message, 0)  # names this process as the server, as a run would

    def message(round, state, personal="norms"):
        job = train_config(plan, round, "round", plan.local) | ({"personal": personal} if personal else {})
        return request_message("train", 1001, "1", job, state)

    return message


@pytest.mark.parametrize("personal", ["norms", "head"])
def test_each_round_begins_with_the_global_model_and_the_hospital_s_own_part(
    plan, cohort, training, personal
):
    """Bit for bit what a plain loop gives that puts its own entries into every global model it gets."""
    site, own = cohort["alpha"], {}
    hospital = Hospital(site)
    for round in (1, 2, 3):
        state = build(plan.model, round).state_dict()  # whatever the server sends
        told = state_of(hospital.train(training(round, state, personal)))
        model = build(plan.model, 0)
        model.load_state_dict(state | own)
        where = Draws(plan.seed, "round", round, site.name)
        fit(
            model, site.train.images, site.train.labels, plan.local, normalise=plan.normalisation, draws=where
        )
        assert state_hash(told) == state_hash(model.state_dict())
        own = {key: model.state_dict()[key].clone() for key in personal_entries(plan.model, personal)}


def test_without_a_personal_part_nothing_is_kept(plan, cohort, training):
    hospital = Hospital(cohort["alpha"])
    hospital.train(training(1, build(plan.model, 1).state_dict(), None))
    assert hospital.memory.state_dict() == {}


def test_a_model_is_judged_as_sent_unless_the_job_says_personal(plan, cohort, training):
    hospital = Hospital(cohort["alpha"])
    hospital.train(training(1, build(plan.model, 1).state_dict()))
    sent = build(plan.model, 2).state_dict()

    def loss(**job):
        message = request_message("evaluate", 1001, "1", common_config(plan) | job, sent)
        return hospital.evaluate(message).content["metrics"]["loss"]

    as_sent = loss()
    assert as_sent == pytest.approx(_loss(plan, cohort["alpha"], sent))
    assert loss(personal="norms") == pytest.approx(
        _loss(plan, cohort["alpha"], sent | hospital.memory.latest)
    )
    assert loss(personal="norms") != as_sent


def test_a_new_process_for_every_message_gives_the_same_bits(plan, cohort, training):
    """As under Flower's own runtimes: the Context's state is all that is left of the hospital before."""
    states = [build(plan.model, round).state_dict() for round in (1, 2)]
    lasting = Hospital(cohort["alpha"])
    expected = [state_of(lasting.train(training(i + 1, state))) for i, state in enumerate(states)]
    app = client_app(lambda _: Hospital(cohort["alpha"]), memory_in_context=True)
    context = Context(run_id=1, node_id=1001, node_config={}, state=RecordDict(), run_config={})
    for i, state in enumerate(states):
        assert state_hash(state_of(app(training(i + 1, state), context))) == state_hash(expected[i])


def test_the_journal_is_told_the_memory_and_can_restore_it(plan, cohort, training):
    first, second = Hospital(cohort["alpha"]), Hospital(cohort["alpha"])
    for round in (1, 2):
        first.train(training(round, build(plan.model, round).state_dict()))
    told = state_of(first.tell_memory(request_message("query.memory", 1001, "1", {}, None)))
    assert int(told["round"]) == 2
    job = common_config(plan) | {"personal": "norms"}
    second.restore_memory(request_message("query.restore", 1001, "1", job, told))
    state = build(plan.model, 3).state_dict()
    after = [state_hash(state_of(hospital.train(training(3, state)))) for hospital in (first, second)]
    assert after[0] == after[1]
    second.restore_memory(request_message("query.restore", 1001, "1", job, None))
    assert second.memory.state_dict() == {}


def _loss(plan, site, state):
    model = build(plan.model, 0)
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model.eval()(plan.normalisation(site.val.images))
    return float(torch.nn.functional.cross_entropy(logits, site.val.labels))
