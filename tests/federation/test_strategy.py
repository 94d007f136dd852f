import itertools
import re

import pytest
import torch
from facts import refused
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedmerge.federation import FederationOptions, MergeStrategy
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.models import average, state_hash

NODES = {10 + i: name for i, name in enumerate("abc")}


@pytest.fixture
def clients() -> ClientRegistry:
    """Of one, two and three images."""
    return ClientRegistry(
        Client(node, name, i, 20, (i, 0, 0)) for i, (node, name) in enumerate(NODES.items(), 1)
    )


@pytest.fixture
def states() -> list[dict[str, torch.Tensor]]:
    """Three states whose float32 sum depends on the order of summation."""
    values = [1.6e7, 1.0, -1.6e7]
    return [{"w": torch.tensor([value, 0.1 * i]), "n": torch.tensor(i)} for i, value in enumerate(values)]


class Ward:
    """Three hospitals that answer with given states; ``broken`` says how many first attempts fail."""

    def __init__(self, states, weights=(1, 2, 3), broken=(), order=(0, 1, 2)):
        from fedmerge.federation import LocalGrid

        LocalGrid(lambda message, context: message, 0)  # names this process as the server, as a run would
        self.states, self.order = dict(zip(NODES, states, strict=True)), order
        self.weights = dict(zip(NODES, weights, strict=True))
        self.broken, self.asked = dict(broken), []

    def send_and_receive(self, messages, *, timeout=None):
        replies = [reply for message in messages if (reply := self.answer(message)) is not None]
        return [replies[i] for i in self.order if i < len(replies)] if len(replies) > 1 else replies

    def answer(self, message):
        node = message.metadata.dst_node_id
        self.asked.append(NODES[node])
        if self.asked.count(NODES[node]) <= self.broken.get(NODES[node], 0):
            return Message(Error(code=1, reason="it broke"), reply_to=message)
        if self.states[node] is None:
            return None
        arrays = ArrayRecord(self.states[node])
        numbers = {"num-examples": self.weights[node], "loss": 0.5, "accuracy": 0.5}
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord(numbers)})
        return Message(content, reply_to=message)


def round_of(plan, clients, ward, number=1, **rules):
    """One training round of a strategy; returns it and the new weights."""
    strategy = MergeStrategy(plan.model_copy(update={"federation": FederationOptions(**rules)}), clients)
    sent = ArrayRecord({"w": torch.zeros(2), "n": torch.tensor(0)})
    messages = strategy.configure_train(number, sent, ConfigRecord(), ward)
    arrays, _ = strategy.aggregate_train(number, ward.send_and_receive(messages))
    return strategy, arrays.to_torch_state_dict()


def test_weights_are_the_numbers_of_images(plan, clients, states):
    """w = (1 * 1.6e7 + 2 * 1 + 3 * -1.6e7) / 6 and (2 * 0.1 + 3 * 0.2) / 6."""
    _, merged = round_of(plan, clients, Ward(states))
    torch.testing.assert_close(merged["w"], torch.tensor([(1.6e7 + 2 - 4.8e7) / 6, 0.8 / 6]))
    assert merged["n"].dtype == torch.int64
    assert merged["n"] == 0


def test_arrival_order_changes_no_bit(plan, clients, states):
    hashes = {
        state_hash(round_of(plan, clients, Ward(states, order=order))[1])
        for order in itertools.permutations(range(3))
    }
    assert len(hashes) == 1


def test_an_error_is_left_out_and_recorded(plan, clients, states):
    strategy, merged = round_of(plan, clients, Ward(states, broken={"b": 1}), number=2)
    expected = average([states[0], states[2]], [1.0, 3.0])
    assert state_hash(merged) == state_hash(expected)
    assert [(f.round, f.phase, f.site, f.reason, f.attempt, f.then) for f in strategy.failures] == [
        (2, "train", "b", "it broke", 1, "left out")
    ]
    assert [row["site"] for row in strategy.history] == ["a", "c"]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_hospital_that_answers_when_asked_again_takes_its_own_place_bit_for_bit(
    plan, clients, states, failures
):
    """The float64 sum of 1.6e7, 1 and -1.6e7 depends on their order; a retry must not change it."""
    _, unbroken = round_of(plan, clients, Ward(states))
    ward = Ward(states, broken={"a": failures})
    strategy, merged = round_of(plan, clients, ward, on_failure="retry", retries=2)
    assert state_hash(merged) == state_hash(unbroken)
    assert ward.asked == ["a", "b", "c"] + ["a"] * failures
    assert [(f.site, f.attempt, f.then) for f in strategy.failures] == [
        ("a", attempt, "asked again") for attempt in range(1, failures + 1)
    ]
    assert [row["site"] for row in strategy.history] == ["a", "b", "c"]


def test_after_the_last_attempt_a_hospital_is_left_out_and_the_quorum_counts(plan, clients, states):
    strategy, merged = round_of(
        plan, clients, Ward(states, broken={"b": 9}), on_failure="retry", retries=2, quorum=2
    )
    assert state_hash(merged) == state_hash(average([states[0], states[2]], [1.0, 3.0]))
    assert [(f.attempt, f.then) for f in strategy.failures] == [
        (1, "asked again"),
        (2, "asked again"),
        (3, "left out"),
    ]
    with refused("2", "3", "hospitals"):
        round_of(plan, clients, Ward(states, broken={"b": 9}), on_failure="retry", quorum=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"w": torch.tensor([0.0, float("nan")])}, "not finite in 1 of its tensors, first 'w'"),
        ({"w": torch.zeros(3)}, r"tensor 'w' is float32 of shape \(3,\), not float32 of shape \(2,\)"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, "tensor 'w' is float64 of shape"),
        ({"n": torch.tensor(0.0)}, "tensor 'n' is float32 of shape .*, not int64"),
        ({"v": torch.zeros(1)}, "has an unknown tensor 'v'"),
        ({"w": torch.tensor([3.0, 4.1])}, r"norm 5\.08, more than max_norm 5"),
    ],
)
def test_what_cannot_be_merged_never_reaches_the_model(plan, clients, change, reason):
    """The others answer (0.3, 0.4), of norm 0.5 from the zeros that they were sent."""
    good = {"w": torch.tensor([0.3, 0.4]), "n": torch.tensor(1)}
    strategy, merged = round_of(plan, clients, Ward([good, good | change, good]), max_norm=5.0)
    assert state_hash(merged) == state_hash(good)
    (failure,) = strategy.failures
    assert failure.site == "b"
    assert re.search(reason, failure.reason), failure.reason


def test_a_missing_tensor_and_a_weight_that_is_none_are_refused(plan, clients, states):
    del states[1]["w"]
    strategy, _ = round_of(plan, clients, Ward(states, weights=(1, 2, -3)))
    assert [(f.site, f.reason) for f in strategy.failures] == [
        ("b", "it lacks the tensor 'w'"),
        ("c", "'num-examples' is -3: Input should be greater than or equal to 1"),
    ]


def test_garbage_is_a_failure_that_says_what_is_missing(plan, clients, states):
    ward = Ward(states)
    answer = ward.answer

    def garbled(message):
        reply = answer(message)
        if message.metadata.dst_node_id == 11:
            reply.content["arrays"]["w"].data = b"\x93NUMPY no"
        if message.metadata.dst_node_id == 12:
            del reply.content["metrics"]
        return reply

    ward.answer = garbled
    strategy, merged = round_of(plan, clients, ward)
    assert state_hash(merged) == state_hash(states[0])
    assert [(f.site, f.kind) for f in strategy.failures] == [("b", "refused"), ("c", "refused")]
    assert "tensor 'w' begins with a header that cannot be read" in strategy.failures[0].reason
    assert strategy.failures[1].reason == "it does not say 'num-examples'"


def test_no_answer_is_a_failure(plan, clients, states):
    states[2] = None
    strategy, _ = round_of(plan, clients, Ward(states))
    assert [(f.site, f.reason) for f in strategy.failures] == [("c", "no answer")]


def test_below_the_quorum_the_run_ends_with_the_reasons(plan, clients, states):
    with refused("2", "3", "hospitals"):
        round_of(plan, clients, Ward(states, broken={"b": 1}), quorum=3)


def test_abort_ends_at_the_first_failure(plan, clients, states):
    with refused("b", "hospital", "1"):
        round_of(plan, clients, Ward(states, broken={"b": 1}), on_failure="abort")


def test_only_participants_are_asked_to_train_and_quorum_counts_them(plan, clients, states):
    options = {"participation": {"number": 2}, "quorum": 3}
    for number in range(1, 5):
        drawn = [member.name for member in participants(clients, Participation(number=2), plan.seed, number)]
        ward = Ward(states)
        strategy, merged = round_of(plan, clients, ward, number=number, **options)
        assert ward.asked == drawn == [row["site"] for row in strategy.history]
        chosen = ["abc".index(name) for name in drawn]
        expected = average([states[i] for i in chosen], [float(i + 1) for i in chosen])
        assert state_hash(merged) == state_hash(expected)


def test_more_participants_than_hospitals_are_refused(plan, clients, states):
    with refused("3", "hospitals", "train"):
        round_of(plan, clients, Ward(states), participation={"number": 4})
