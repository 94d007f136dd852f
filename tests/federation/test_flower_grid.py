"""What Flower's Grid does to replies: they come when they come, some from the SuperLink, some never."""

import time

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.grids import flower
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.messages.records import reason_of, request_message
from fedmerge.federation.server.clients import wait_for_clients


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(flower, "POLL", 0.01)


class Link(LocalGrid):
    """A SuperLink of sorts: ``looks`` says at which look a node's reply is there; None: never."""

    looks, lost, refuses, due = {}, (), (), {}

    def push_messages(self, messages):
        messages = list(messages)
        self.seen = 0
        self.due = {**self.due}
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
        for reply_message in replies:
            if reply_message.metadata.src_node_id in self.lost:
                reply_message.metadata.__dict__["_src_node_id"] = 1  # the SuperLink answers in its place
        return replies


@pytest.fixture
def link(cohort):
    hospitals = [Hospital(site) for site in cohort.training]
    return Link(client_app(lambda context: hospitals[int(context.node_config["partition-id"])]), 3)


def ask(link, **more):
    requests = [request_message("query", node, "g", {}, None) for node in link.get_node_ids()]
    return FlowerGrid(link).send_and_receive(requests, **more)


def test_replies_are_handed_on_as_they_come(link):
    first, second, third = link.get_node_ids()
    link.looks = {first: 3, second: 1, third: 2}
    assert [reply_message.metadata.src_node_id for reply_message in ask(link)] == [second, third, first]


def test_messages_are_sent_though_nobody_reads_the_replies(link):
    ask(link)
    assert len(link.due) == 3


def test_a_reply_of_the_superlink_is_its_node_s(link):
    nodes = link.get_node_ids()
    link.lost = nodes[1:2]
    assert sorted(reply_message.metadata.src_node_id for reply_message in ask(link)) == nodes


def test_after_the_time_nothing_more_is_waited_for(link):
    nodes = link.get_node_ids()
    link.looks = {nodes[0]: None}
    began = time.monotonic()
    assert [reply_message.metadata.src_node_id for reply_message in ask(link, timeout=0.2)] == nodes[1:]
    assert time.monotonic() - began >= 0.2


def test_a_message_that_is_not_taken_is_answered_at_once(link):
    nodes = link.get_node_ids()
    link.refuses = nodes[:1]
    first, *others = ask(link)
    assert isinstance(first, Message)
    assert (first.metadata.src_node_id, len(others)) == (nodes[0], 2)
    assert reason_of(first) == "the SuperLink did not take the message"
    link.refuses = nodes
    assert [reply_message.has_error() for reply_message in ask(link)] == [True] * 3


def test_a_message_that_the_superlink_has_already_is_sent_as_a_new_one(link):
    """A call that failed halfway is repeated, and the SuperLink does not take the same message twice."""
    nodes = link.get_node_ids()
    push, calls = link.push_messages, []

    def once_refusing(messages):
        calls.append(len(messages))
        link.refuses = nodes[:1] if len(calls) == 1 else ()
        return push(messages)

    link.push_messages = once_refusing
    assert sorted(reply_message.metadata.src_node_id for reply_message in ask(link)) == nodes
    assert calls == [3, 1]


@pytest.mark.parametrize("code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE])
def test_what_the_superlink_lost_is_asked_again(link, code):
    """Its error stands in for the reply once; the node is there all the time."""
    nodes, pull, errors = link.get_node_ids(), link.pull_messages, []

    def once_without(message_ids):
        replies = pull(message_ids)
        for i, reply_message in enumerate(replies):
            if reply_message.metadata.src_node_id == nodes[1] and not errors:
                asked = Message(reply_message.content, dst_node_id=nodes[1], message_type="query")
                asked.metadata.__dict__["_message_id"] = reply_message.metadata.reply_to_message_id
                replies[i] = Message(Error(code=code, reason="it is not here"), reply_to=asked)
                errors.append(code)
        return replies

    link.pull_messages = once_without
    grid = FlowerGrid(link, away=60)
    replies = list(grid.send_and_receive([request_message("query", node, "g", {}, None) for node in nodes]))
    assert errors == [code]
    assert [reply_message.has_error() for reply_message in replies] == [False] * 3


def test_a_roster_is_greeted_through_it(link):
    members, absent = wait_for_clients(FlowerGrid(link), ["alpha", "beta", "gamma"], patience=60)
    assert ([member.name for member in members], absent) == (["alpha", "beta", "gamma"], {})


class Away(Link):
    """A SuperLink whose node ``gone`` is away: it says so, until the node came back after some looks."""

    gone, back, sends = 0, 5, 0

    def get_node_ids(self):
        self.sent += 1
        here = super().get_node_ids()
        return [node for node in here if node != self.gone or self.sent > self.back]

    sent = 0

    def push_messages(self, messages):
        messages = list(messages)
        self.sends += len(messages)
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        self.sent += 1
        replies = list(super().pull_messages(message_ids))
        if self.sent <= self.back:
            for i, reply_message in enumerate(replies):
                if reply_message.metadata.src_node_id == self.gone:
                    asked = Message(reply_message.content, dst_node_id=self.gone, message_type="query")
                    asked.metadata.__dict__["_message_id"] = reply_message.metadata.reply_to_message_id
                    replies[i] = Message(Error(code=5, reason="it is not available"), reply_to=asked)
        return replies


@pytest.fixture
def away(cohort):
    hospitals = [Hospital(site) for site in cohort.training]
    return Away(client_app(lambda context: hospitals[int(context.node_config["partition-id"])]), 3)


def requests_to(nodes):
    return [request_message("query", node, "g", {}, None) for node in nodes]


def test_a_node_that_comes_back_is_asked_again(away):
    nodes = away.get_node_ids()
    away.gone = nodes[1]
    replies = list(FlowerGrid(away, away=60).send_and_receive(requests_to(nodes)))
    assert [reply_message.has_error() for reply_message in replies] == [False] * 3
    assert {reply_message.metadata.src_node_id for reply_message in replies} == set(nodes)
    assert away.sends == 4


def test_without_patience_a_node_that_is_away_has_failed(away):
    nodes = away.get_node_ids()
    away.gone = nodes[1]
    replies = list(FlowerGrid(away).send_and_receive(requests_to(nodes)))
    assert [r.metadata.src_node_id for r in replies if r.has_error()] == [nodes[1]]
    assert away.sends == 3


def test_one_that_does_not_come_back_is_waited_for_once(away):
    nodes = away.get_node_ids()
    away.gone, away.back = nodes[1], 10**9
    grid = FlowerGrid(away, away=0.3)
    began = time.monotonic()
    first = list(grid.send_and_receive(requests_to(nodes)))
    took = time.monotonic() - began
    assert took >= 0.3
    assert [r.metadata.src_node_id for r in first if r.has_error()] == [nodes[1]]
    grid.away = 10**9
    again = list(grid.send_and_receive(requests_to(nodes)))  # it would wait for ever
    assert [r.metadata.src_node_id for r in again if r.has_error()] == [nodes[1]]


def test_a_message_that_its_node_lost_is_sent_again(away, monkeypatch):
    monkeypatch.setattr(flower, "LOOK", 0.0)
    nodes = away.get_node_ids()
    away.looks = {nodes[0]: None}
    told = []

    def lost(ids):
        if told or len(ids) > 1:
            return set()
        told.extend(ids)
        away.looks = {}
        return set(ids)

    replies = list(FlowerGrid(away, 60, lost).send_and_receive(requests_to(nodes)))
    assert sorted(reply_message.metadata.src_node_id for reply_message in replies) == nodes
    assert not any(reply_message.has_error() for reply_message in replies)
    assert len(told) == 1


def test_a_node_that_loses_message_after_message_is_given_up(away, monkeypatch):
    monkeypatch.setattr(flower, "LOOK", 0.0)
    nodes = away.get_node_ids()
    away.looks = {nodes[0]: None}
    grid = FlowerGrid(away, 10**9, lambda ids: set(ids))
    (reply_message,) = grid.send_and_receive(requests_to(nodes[:1]))
    assert reply_message.has_error()
    assert reply_message.metadata.src_node_id == nodes[0]
    assert away.sends == 1 + flower.RESENT


def test_a_node_that_is_revoked_has_failed_at_once_and_is_asked_nothing_more(away, monkeypatch):
    """The first never answers, the second is away; both are revoked while they are waited for."""
    monkeypatch.setattr(flower, "LOOK", 0.0)
    nodes = away.get_node_ids()
    away.looks, away.gone, away.back = {nodes[0]: None}, nodes[1], 10**9
    out = set()

    class Grid(FlowerGrid):
        def revoked(self, nodes):
            return out & set(nodes)

    grid = Grid(away, away=10**9)
    replies = grid.send_and_receive(requests_to(nodes))
    assert not next(replies).has_error()
    out.update(nodes[:2])
    failed = list(replies)
    assert {reply_message.metadata.src_node_id for reply_message in failed} == out
    assert all("admission was taken back" in reason_of(reply_message) for reply_message in failed)
    before = away.sends
    again = list(grid.send_and_receive(requests_to(nodes[:2])))
    assert {reply_message.metadata.src_node_id for reply_message in again} == out
    assert away.sends == before
