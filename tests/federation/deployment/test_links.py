"""What is read out of a SuperLink's database, made here with Flower's own description of its tables."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.supercore.state.schema.corestate_models import Task
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node, Run
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from fedmerge.federation.deployment import links

BIG = 2**64 - 5  # as most of Flower's ids are: beyond what a signed number holds


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "superlink.db"
    engine = create_engine(f"sqlite:///{path}")
    for table in (Node, Run, MessageIns, MessageRes, Task):
        table.__table__.create(engine)

    def add(*rows):
        with Session(engine) as session:
            session.add_all(rows)
            session.commit()
        return path

    return add


def node(number, **fields):
    return Node(node_id=number, heartbeat_interval=30.0, unregistered_at=None, **fields)


def test_the_constant_is_flower_s():
    assert links.PATIENCE == HEARTBEAT_PATIENCE


def test_a_node_that_is_there_was_heard_when_its_last_heartbeat_came(database):
    until = time.time() + 45  # of 60 after a heartbeat
    path = database(node(-5, status="online", last_activated_at=ago(500), online_until=until))
    (found,) = links.links(path).values()
    assert (found.node, found.status) == (BIG, "online")
    assert 14 < (datetime.now(UTC) - found.heard).total_seconds() < 20


def test_one_whose_heartbeats_ran_out_is_gone_though_nobody_wrote_it_down(database):
    path = database(node(3, status="online", last_activated_at=ago(500), online_until=time.time() - 100))
    (found,) = links.links(path).values()
    assert found.status == "offline"
    assert 159 < (datetime.now(UTC) - found.heard).total_seconds() < 170


def test_one_that_never_came_and_one_that_was_taken_out(database):
    gone = node(4, status="unregistered")
    gone.unregistered_at = ago(5)
    path = database(node(3, status="registered"), gone)
    (found,) = links.links(path).values()
    assert (found.status, found.heard) == ("registered", None)


def test_runs_have_the_status_of_their_first_task(database):
    def task(number, **fields):
        return Task(task_id=number, type="flwr-serverapp", run_id=-5, pending_at=datetime.now(UTC), **fields)

    path = database(
        Run(run_id=-5, primary_task_id=1),
        task(1, starting_at=datetime.now(UTC), running_at=datetime.now(UTC)),
        task(2, finished_at=datetime.now(UTC), sub_status="failed", details="another"),
    )
    assert links.tasks(path)[BIG].status == "running"
    path = database(
        Run(run_id=6, primary_task_id=3),
        task(3, finished_at=datetime.now(UTC), sub_status="stopped", details="by hand"),
    )
    assert (links.tasks(path)[6].status, links.tasks(path)[6].details) == ("finished:stopped", "by hand")


def test_a_message_is_lost_when_its_node_began_after_it_was_delivered(database):
    def message(name, delivered):
        return MessageIns(message_id=name, run_id=None, dst_node_id=-5, delivered_at=delivered)

    path = database(
        node(-5, status="online", last_activated_at=ago(50), online_until=time.time() + 30),
        message("before", ago(60)),
        message("after", ago(40)),
        message("waits", ""),
        message("not mine", ago(60)),
    )
    assert links.lost(path, ["before", "after", "waits", "unknown"]) == {"before"}
    assert links.lost(path, []) == set()


def test_a_reply_that_was_handed_over_but_is_still_there_never_came(database):
    def reply(to, delivered):
        return MessageRes(message_id=f"re {to}", reply_to_message_id=to, run_id=None, delivered_at=delivered)

    path = database(reply("claimed", ago(3)), reply("ready", ""), reply("not mine", ago(3)))
    assert links.lost(path, ["claimed", "ready", "unknown"]) == {"claimed"}


def test_no_database_or_another_s_says_nothing(tmp_path):
    (tmp_path / "other").write_text("no database")
    for path in (tmp_path / "none", tmp_path / "other", tmp_path):
        assert (links.links(path), links.tasks(path), links.lost(path, ["a"])) == ({}, {}, set())
    assert not (tmp_path / "none").exists()
