"""A secure round: the mean comes out, no hospital's weights do, and whoever vanishes makes it void."""

import numpy as np
import pytest
import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation import LocalGrid, MergeStrategy, client_app
from fedmerge.federation.arrays import lend
from fedmerge.federation.client import Hospital
from fedmerge.federation.exchange import Answer, read
from fedmerge.federation.jobs import training_job
from fedmerge.federation.privacy.secure_round import PUBLIC_KEY, secure_mean
from fedmerge.federation.privacy.secure_sum import encode
from fedmerge.federation.records import request
from fedmerge.federation.roster import greet
from fedmerge.federation.schema.reading import job_of
from fedmerge.federation.schema.tensors import Refused
from fedmerge.models import average, build


class Watched(LocalGrid):
    """A grid that keeps what it carried, and loses the replies of hospitals in ``lost``, by message type.

    carried: each message, the node that replied, and the arrays in its reply.
    """

    def __init__(self, app, n):
        super().__init__(app, n)
        self.carried, self.lost = [], {}

    def send_and_receive(self, messages, *, timeout=None):
        sent = list(messages)
        replies = [reply for m in sent for reply in super(Watched, self).send_and_receive([m])]
        for message, reply in zip(sent, replies, strict=True):
            records = [] if reply.has_error() else reply.content.array_records.values()
            arrays = {name: array.numpy().copy() for record in records for name, array in record.items()}
            self.carried.append((message, reply.metadata.src_node_id, arrays))
        kind = sent[0].metadata.message_type
        return [reply for reply in replies if reply.metadata.src_node_id not in self.lost.get(kind, ())]


def ward_of(plan, sites, new_processes=False):
    """Hospitals behind a watched grid, and the strategy that knows them."""
    kept = [Hospital(site) for site in sites]

    def hospital_of(context):
        i = int(context.node_config["partition-id"])
        return Hospital(sites[i]) if new_processes else kept[i]

    grid = Watched(client_app(hospital_of, memory_in_context=new_processes), len(sites))
    return grid, MergeStrategy(plan, greet(grid)[0])


@pytest.fixture
def ward(plan, cohort):
    return ward_of(plan, cohort.training)


def trained(ward, plan, round=1, secure=True):
    """The start of a round and the answers of all hospitals to its training messages."""
    grid, strategy = ward
    start = build(plan.model, plan.seed).state_dict()
    job = training_job(strategy.plan, round, "round", plan.local) | ({"secure": True} if secure else {})
    messages = [request("train", member.node_id, "1", job, start) for member in strategy.roster]
    question = strategy.training(round, "train", job, None, start, strategy.roster)
    told = [read(question, m, r) for m, r in strategy.roster.in_order(grid.send_and_receive(messages))]
    return start, [answer for answer in told if isinstance(answer, Answer)]


def summed(ward, plan, start, answers, round=1):
    grid, strategy = ward

    def ask(question):
        return strategy.usable(question, grid.send_and_receive(question.messages()), grid)

    return secure_mean(round, answers, start, plan.batch_norm, ask)


def mean_of(plain):
    return average([a.state for a in plain], [float(a.metrics["num-examples"]) for a in plain])


def check_mean(mean, expected, start):
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(mean[key], value, rtol=1e-6, atol=1e-8)
        else:
            assert torch.equal(mean[key], start[key])


def test_the_mean_is_that_of_the_weights_and_the_weights_are_nowhere(ward, plan):
    """The same training without it gives the weights. What a hospital sends has none of their fixed-point
    numbers: one of 2,500 random 64-bit numbers is equal to its own with a chance of 1e-16.
    """
    _, plain = trained(ward, plan, secure=False)
    expected = mean_of(plain)
    ward[0].carried.clear()
    start, answers = trained(ward, plan)
    assert [list(answer.state) for answer in answers] == [["public"]] * 3
    check_mean(summed(ward, plan, start, answers), expected, start)
    everyone = sum(answer.metrics["num-examples"] for answer in plain)
    for answer in plain:
        own = encode(answer.state, answer.metrics["num-examples"], everyone, plan.batch_norm)
        key, masked = (arrays for _, node, arrays in ward[0].carried if node == answer.member.node_id)
        assert (list(key), key["public"].shape, key["public"].dtype) == (["public"], (32,), np.uint8)
        assert list(masked) == ["numbers"]
        assert masked["numbers"].shape == own.shape
        assert not np.any(masked["numbers"].view(np.uint64) == own)


def test_a_hospital_that_did_not_finish_its_training_is_not_in_the_sum(plan, cohort):
    """Of four, the third does not answer; the others' masks are made without it."""
    ward = ward_of(plan, cohort.sites)
    _, plain = trained(ward, plan, secure=False)
    start, answers = trained(ward, plan)
    del plain[2], answers[2]
    check_mean(summed(ward, plan, start, answers), mean_of(plain), start)
    with pytest.raises(FedMergeError, match="at least 3 hospitals, but 2 finished their training"):
        summed(ward, plan, start, answers[:2])


def test_a_hospital_that_vanishes_after_training_makes_the_round_void(ward, plan):
    grid, strategy = ward
    start, answers = trained(ward, plan)
    grid.lost["query.secure_sum"] = [strategy.roster[1].node_id]
    assert summed(ward, plan, start, answers) is None
    assert [(f.phase, f.site, f.reason) for f in strategy.failures] == [("sum", "beta", "no answer")]
    grid.lost.clear()
    start, answers = trained(ward, plan, round=2)
    assert summed(ward, plan, start, answers, round=2) is not None  # the next round is whole


def test_the_same_question_is_answered_again_and_another_one_is_not(ward, plan):
    """Asked again, a hospital sends the same numbers; about other participants it refuses, in that round."""
    grid, strategy = ward
    start, answers = trained(ward, plan)
    summed(ward, plan, start, answers)
    masked = [(m, arrays["numbers"]) for m, _, arrays in grid.carried if "numbers" in arrays]
    assert len(masked) == 3
    for message, first in masked:
        job = job_of(message)
        again = request("query.secure_sum", message.metadata.dst_node_id, "", job, None)
        assert np.array_equal(grid.send_and_receive([again])[0].content["arrays"]["numbers"].numpy(), first)
    fewer = job | {"publics": {name: key for name, key in job["publics"].items() if name != "beta"}}
    node = strategy.roster[0].node_id
    (refused,) = grid.send_and_receive([request("query.secure_sum", node, "", fewer, None)])
    assert "has answered for other participants in round 1" in refused.error.reason


def test_weights_of_another_round_are_not_given(ward, plan):
    start, answers = trained(ward, plan)
    assert summed(ward, plan, start, answers, round=2) is None
    assert {f.site for f in ward[1].failures} == {"alpha", "beta", "gamma"}
    assert "has no weights of round 2 to be summed" in ward[1].failures[0].reason


def test_a_new_process_for_every_message_gives_the_same_mean(ward, plan, cohort):
    """As under Flower's own runtimes: weights and private key wait in the Context, not in a message."""
    start, answers = trained(ward, plan)
    expected = summed(ward, plan, start, answers)
    other = ward_of(plan, cohort.training, new_processes=True)
    start, answers = trained(other, plan)
    found = summed(other, plan, start, answers)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "state", [None, {}, {"public": torch.zeros(31, dtype=torch.uint8)}, {"w": torch.zeros(32)}]
)
def test_an_answer_without_a_key_is_no_answer(state):
    with pytest.raises(Refused):
        PUBLIC_KEY.read(None if state is None else lend(state))
