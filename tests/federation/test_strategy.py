import itertools

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict

from fedmerge.errors import FedMergeError
from fedmerge.federation import MergeStrategy
from fedmerge.federation.records import request
from fedmerge.federation.roster import Member, Roster
from fedmerge.models import average, state_hash


@pytest.fixture
def roster() -> Roster:
    return Roster(Member(10 + i, name, 60, 20, (20, 20, 20)) for i, name in enumerate("abc"))


@pytest.fixture
def states() -> list[dict[str, torch.Tensor]]:
    """Three states whose float32 sum depends on the order of summation."""
    values = [1e8, 1.0, -1e8]
    return [{"w": torch.tensor([value, 0.1 * i]), "n": torch.tensor(i)} for i, value in enumerate(values)]


def replies(roster, states, weights=(1, 2, 3), errors=()):
    from fedmerge.federation import LocalGrid

    LocalGrid(lambda message, context: message, 0)  # names this process as the server, as a run would
    answers = []
    for member, state, weight in zip(roster, states, weights, strict=True):
        message = request("train", member.node_id, "1", {}, None)
        if member.name in errors:
            answers.append(Message(Error(code=1, reason="it broke"), reply_to=message))
            continue
        content = RecordDict(
            {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": weight})}
        )
        answers.append(Message(content, reply_to=message))
    return answers


def test_weights_are_the_numbers_of_images(plan, roster, states):
    """w = (1 * 1e8 + 2 * 1 + 3 * -1e8) / 6 and (2 * 0.1 + 3 * 0.2) / 6."""
    arrays, _ = MergeStrategy(plan, roster).aggregate_train(1, replies(roster, states))
    merged = arrays.to_torch_state_dict()
    torch.testing.assert_close(merged["w"], torch.tensor([(1e8 + 2 - 3e8) / 6, 0.8 / 6]))
    assert merged["n"].dtype == torch.int64
    assert merged["n"] == 0


def test_arrival_order_changes_no_bit(plan, roster, states):
    hashes = set()
    for order in itertools.permutations(range(3)):
        answers = replies(roster, states)
        arrays, _ = MergeStrategy(plan, roster).aggregate_train(1, [answers[i] for i in order])
        hashes.add(state_hash(arrays.to_torch_state_dict()))
    assert len(hashes) == 1


def test_an_error_is_left_out_and_recorded(plan, roster, states):
    strategy = MergeStrategy(plan, roster)
    arrays, _ = strategy.aggregate_train(4, replies(roster, states, errors={"b"}))
    expected = average([states[0], states[2]], [1.0, 3.0])
    assert state_hash(arrays.to_torch_state_dict()) == state_hash(expected)
    assert [(f.round, f.phase, f.site, f.reason) for f in strategy.failures] == [
        (4, "train", "b", "it broke")
    ]
    assert [row["site"] for row in strategy.history] == ["a", "c"]


def test_weights_that_are_not_finite_never_reach_the_average(plan, roster, states):
    states[2]["w"][1] = float("nan")
    strategy = MergeStrategy(plan, roster)
    arrays, _ = strategy.aggregate_train(1, replies(roster, states))
    assert arrays.to_torch_state_dict()["w"].isfinite().all()
    assert strategy.failures[0].site == "c"
    assert "not finite" in strategy.failures[0].reason


def test_no_answer_is_a_failure(plan, roster, states):
    strategy = MergeStrategy(plan, roster)
    strategy.aggregate_train(1, replies(roster, states)[:2])
    assert [(f.site, f.reason) for f in strategy.failures] == [("c", "no answer")]


def test_below_the_quorum_the_run_ends_with_the_reasons(plan, roster, states):
    strict = MergeStrategy(plan.model_copy(update={"quorum": 3}), roster)
    with pytest.raises(FedMergeError, match=r"2 of 3 hospitals .* quorum of 3\. b: it broke"):
        strict.aggregate_train(1, replies(roster, states, errors={"b"}))


def test_abort_ends_at_the_first_failure(plan, roster, states):
    strict = MergeStrategy(plan.model_copy(update={"on_failure": "abort"}), roster)
    with pytest.raises(FedMergeError, match="hospital 'b' failed in round 1"):
        strict.aggregate_train(1, replies(roster, states, errors={"b"}))
