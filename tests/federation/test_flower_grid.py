"""What Flower's Grid does to replies: they come when they come, some from the SuperLink, some never."""

import time

import pytest
from flwr.app import Message

from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.grids import flower
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.records import reason_of, request
from fedmerge.federation.roster import greet


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(flower, "POLL", 0.01)


class Link(LocalGrid):
    """A SuperLink of sorts: ``looks`` says at which look a node's reply is there; None: never."""

    looks, lost, refuses = {}, (), ()

    def push_messages(self, messages):
        messages = list(messages)
        self.seen = 0
        self.due = {}
        ids = []
        for message in messages:
            if message.metadata.dst_node_id in self.refuses:
                ids.append(None)
                continue
            (number,) = super().push_messages([message])
            self.due[number] = self.looks.get(message.metadata.dst_node_id, 1)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids):
        self.seen += 1
        ready = [n for n in message_ids if self.due[n] is not None and self.due[n] <= self.seen]
        replies = super().pull_messages(ready)
        for reply in replies:
            if reply.metadata.src_node_id in self.lost:
                reply.metadata.__dict__["_src_node_id"] = 1  # the SuperLink answers in its place
        return replies


@pytest.fixture
def link(cohort):
    hospitals = [Hospital(site) for site in cohort.training]
    return Link(client_app(lambda context: hospitals[int(context.node_config["partition-id"])]), 3)


def ask(link, **more):
    questions = [request("query", node, "g", {}, None) for node in link.get_node_ids()]
    return FlowerGrid(link).send_and_receive(questions, **more)


def test_replies_are_handed_on_as_they_come(link):
    first, second, third = link.get_node_ids()
    link.looks = {first: 3, second: 1, third: 2}
    assert [reply.metadata.src_node_id for reply in ask(link)] == [second, third, first]


def test_messages_are_sent_though_nobody_reads_the_replies(link):
    ask(link)
    assert len(link.due) == 3


def test_a_reply_of_the_superlink_is_its_node_s(link):
    nodes = link.get_node_ids()
    link.lost = nodes[1:2]
    assert sorted(reply.metadata.src_node_id for reply in ask(link)) == nodes


def test_after_the_time_nothing_more_is_waited_for(link):
    nodes = link.get_node_ids()
    link.looks = {nodes[0]: None}
    began = time.monotonic()
    assert [reply.metadata.src_node_id for reply in ask(link, timeout=0.2)] == nodes[1:]
    assert time.monotonic() - began >= 0.2


def test_a_message_that_is_not_taken_is_answered_at_once(link):
    nodes = link.get_node_ids()
    link.refuses = nodes[:1]
    first, *others = ask(link)
    assert isinstance(first, Message)
    assert (first.metadata.src_node_id, len(others)) == (nodes[0], 2)
    assert reason_of(first) == "the SuperLink did not take the message"
    link.refuses = nodes
    assert [reply.has_error() for reply in ask(link)] == [True] * 3


def test_a_roster_is_greeted_through_it(link):
    members, absent = greet(FlowerGrid(link), ["alpha", "beta", "gamma"], patience=60)
    assert ([member.name for member in members], absent) == (["alpha", "beta", "gamma"], {})
