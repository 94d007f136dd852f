"""Workers of Ray behind Flower's Grid: the answers of one process, whatever happens to the workers."""

import os
import sys
import time

import numpy as np
import pytest
from facts import refused
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedmerge.cluster.config import BackendConfig
from fedmerge.errors import FedMergeError
from fedmerge.federation.grids.ray.grid import RayGrid, shares
from fedmerge.federation.simulated import LATE

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedmerge[ray]'")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

DIE, HANG, RAISE = -1.0, -2.0, -3.0
HANGS = 60  # seconds


def opening(progress):
    """Node i answers x with x + i and says how often it was asked, and by which process."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        value = message.content["arrays"].to_numpy_ndarrays()[0]
        if value.flat[0] == DIE:
            time.sleep(2.0)  # the answer given before has left by then
            os._exit(1)
        if value.flat[0] == HANG:
            time.sleep(HANGS)
        if value.flat[0] == RAISE:
            raise FedMergeError("scanner on fire: call the fire brigade.")
        progress(1, 2)
        progress(2, 2)
        index = context.node_config["partition-id"]
        count = context.state.metric_records.get("count", MetricRecord({"n": 0}))["n"] + 1
        context.state["count"] = MetricRecord({"n": count})
        metrics = MetricRecord({"num-examples": index + 1, "asked": count, "pid": os.getpid()})
        content = RecordDict({"arrays": ArrayRecord([value + index]), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


@pytest.fixture(scope="module")
def pool(own_ray):
    from fedmerge.federation.grids.ray.pool import Pool

    pool = Pool(BackendConfig(kind="ray", workers=2), "cpu", 9)
    yield pool
    pool.close()


def send(grid, nodes, value=1.0, timeout=None):
    """The same value to all nodes, or by node."""
    values = value if isinstance(value, dict) else dict.fromkeys(nodes, value)
    records = {v: ArrayRecord([np.array([v])]) for v in set(values.values())}
    messages = [
        grid.create_message(RecordDict({"arrays": records[values[node]]}), "train", node, "g")
        for node in nodes
    ]
    return list(grid.send_and_receive(messages, timeout=timeout))


def answers(replies):
    return [None if r.has_error() else r.content["arrays"].to_numpy_ndarrays()[0].item() for r in replies]


def told(replies, what):
    return [reply.content["metrics"][what] for reply in replies]


def test_shares_are_equal_and_in_turn():
    """Sizes 3 1 1 1 2: the first worker has 3, so the second gets 1 1 1, then a tie, to the first."""
    assert shares([1.0] * 5, 2) == [0, 1, 0, 1, 0]
    assert shares([3, 1, 1, 1, 2], 2) == [0, 1, 1, 1, 0]


def test_a_run_begins_with_the_workers_that_there_is_room_for(pool, monkeypatch):
    """One of two workers never comes: after the patience the other is enough, and it is not awaited again."""
    RayGrid(pool, [opening])
    monkeypatch.setattr(pool, "_gathered", False)
    monkeypatch.setattr(pool, "backend", BackendConfig(kind="ray", patience=0.3))
    monkeypatch.setattr(pool, "ready", lambda: pool.hands[:1])
    monkeypatch.setattr(pool, "wait", lambda number, seconds: time.sleep(0.05))
    began = time.monotonic()
    pool.gather()
    assert time.monotonic() - began >= 0.3
    monkeypatch.setattr(pool, "ready", lambda: pytest.fail("it asks again"))
    pool.gather()


def test_replies_come_in_the_order_of_the_messages_from_the_same_two_workers(pool):
    grid = RayGrid(pool, [opening] * 5)
    nodes = grid.get_node_ids()
    replies = send(grid, nodes[::-1])
    assert answers(replies) == [5, 4, 3, 2, 1]
    assert [reply.metadata.src_node_id for reply in replies] == nodes[::-1]
    pids = told(replies, "pid")
    assert pids[0] == pids[2] == pids[4] != pids[1] == pids[3]
    assert told(send(grid, nodes[::-1]), "pid") == pids


def test_pushed_messages_are_pulled_once_each(pool):
    grid = RayGrid(pool, [opening] * 3)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    ids = grid.push_messages([grid.create_message(content, "train", n, "g") for n in grid.get_node_ids()])
    pulled = []
    while len(pulled) < 3:
        pulled += grid.pull_messages(ids)
    assert sorted(reply.metadata.reply_to_message_id for reply in pulled) == sorted(ids)
    assert grid.pull_messages(ids) == []


def test_a_hospital_that_raises_answers_with_its_sentence(pool):
    grid = RayGrid(pool, [opening] * 3)
    first, second, third = grid.get_node_ids()
    replies = send(grid, [first, second, third], {first: 1.0, second: RAISE, third: 1.0})
    assert answers(replies) == [1, None, 3]
    assert replies[1].error.reason == "scanner on fire: call the fire brigade."
    with refused("scanner", "fire", kind=Exception):
        send(RayGrid(pool, [opening], debug=True), [first], RAISE)


def test_a_worker_that_dies_fails_one_message_and_forgets_nothing(pool):
    """Five hospitals on two workers; the third one's worker dies. It had two others: they are answered."""
    grid = RayGrid(pool, [opening] * 5)
    nodes = grid.get_node_ids()
    before = send(grid, nodes)
    broken = send(grid, nodes, dict.fromkeys(nodes, 1.0) | {nodes[2]: DIE})
    assert answers(broken) == [1, 2, None, 4, 5]
    assert "worker process ended before it answered" in broken[2].error.reason
    (again,) = send(grid, [nodes[2]])
    assert answers([again]) == [3]
    assert told([again], "asked") == [2]  # the death is not counted, and what was kept before it is known
    later = send(grid, nodes)
    assert told(later, "asked") == [3, 3, 3, 3, 3]
    assert told(later, "pid")[1] == told(before, "pid")[1]


def test_a_worker_that_hangs_is_replaced_when_the_time_is_over(pool):
    grid = RayGrid(pool, [opening] * 4)
    nodes = grid.get_node_ids()
    began = time.monotonic()
    replies = send(grid, nodes, dict.fromkeys(nodes, 1.0) | {nodes[0]: HANG}, timeout=5.0)
    assert time.monotonic() - began < HANGS
    assert answers(replies) == [None, 2, None, 4]  # the third waited behind the first
    assert (replies[0].error.reason, replies[0].error.code) == ("no reply within 5 s", LATE)
    assert answers(send(grid, nodes)) == [1, 2, 3, 4]


def test_a_hospital_that_takes_too_long_costs_only_itself(pool):
    """Each has five seconds from when its turn comes: the one behind the one that hangs is answered."""
    grid = RayGrid(pool, [opening] * 4)
    nodes = grid.get_node_ids()
    records = [ArrayRecord([np.array([value])]) for value in (HANG, 1.0, 1.0, 1.0)]
    messages = [
        grid.create_message(RecordDict({"arrays": record}), "train", node, "g")
        for node, record in zip(nodes, records, strict=True)
    ]
    replies = list(grid.ask(messages, 5.0))
    assert answers(replies) == [None, 2, 3, 4]
    assert (replies[0].error.reason, replies[0].error.code) == ("no reply within 5 s", LATE)


def test_what_many_hospitals_get_is_stored_once(pool):
    grid = RayGrid(pool, [opening] * 6)
    nodes = grid.get_node_ids()
    record = ArrayRecord([np.arange(10.0)])
    for _ in range(2):
        content = [RecordDict({"arrays": record}) for _ in nodes]
        list(
            grid.send_and_receive(
                [grid.create_message(c, "train", n, "g") for c, n in zip(content, nodes, strict=True)]
            )
        )
    assert grid.dispatcher.model_cache.puts == 1
    send(grid, nodes, 2.0)
    assert grid.dispatcher.model_cache.puts == 2


def test_no_more_than_some_replies_wait_for_their_turn(pool):
    """With nobody taking replies, three are asked for (ahead = 3); each one taken lets one more go."""
    grid = RayGrid(pool, [opening] * 9, ahead=3)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    transfer = grid.send_and_receive(
        [grid.create_message(content, "train", node, "g") for node in grid.get_node_ids()]
    )

    def settle():
        """Turns until three are there, however slow the machine (a hundred seconds), and some more."""
        turns = 0
        while turns < 4 or (len(transfer._done) < 3 and turns < 400):
            transfer.turn(0.25)
            turns += 1
        for _ in range(4):
            transfer.turn(0.25)

    settle()
    assert len(transfer._done) == 3
    next(transfer)
    settle()
    assert len(transfer._done) == 3
    assert len(list(transfer)) == 8


def test_the_end_of_every_training_is_shown(pool):
    seen = []
    grid = RayGrid(pool, [opening] * 4, progress=lambda *steps: seen.append(steps))
    send(grid, grid.get_node_ids())
    assert sorted(s for s in seen if s[1] == s[2]) == [(0, 2, 2), (1, 2, 2), (2, 2, 2), (3, 2, 2)]


def test_flower_s_own_fedavg_runs_on_it(pool):
    """Two nodes answer x and x + 1 with weights 1 and 2: each round adds 2/3."""
    result = FedAvg(fraction_evaluate=0.0, min_available_nodes=2).start(
        RayGrid(pool, [opening] * 2), ArrayRecord([np.array([0.0])]), num_rounds=3, timeout=60
    )
    assert result.arrays.to_numpy_ndarrays()[0].item() == pytest.approx(3 * 2 / 3)
