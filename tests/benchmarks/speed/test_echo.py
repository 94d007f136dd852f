"""Hospitals that do not train answer today's messages: the weights they got, and as many examples as one."""

import torch

from benchmarks.speed.echo import grid_of, plan_of
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.plan.train_config import round_config
from fedmerge.models import build


def test_an_echoing_hospital_answers_with_the_weights_it_was_sent():
    plan = plan_of("small-cnn")
    state = dict(build(plan.model, 3).state_dict())
    with grid_of("local", 2, 1) as grid:
        nodes = list(grid.get_node_ids())
        job = round_config(plan, 1)
        asked = [request_message("train", node, "one", job, lend(state)) for node in nodes]
        answers = list(grid.send_and_receive(asked))
    assert [answer.has_error() for answer in answers] == [False, False]
    for answer in answers:
        given = borrow(answer.content.array_records["arrays"])
        assert given.keys() == state.keys()
        assert all(torch.equal(given[key], value) for key, value in state.items())
