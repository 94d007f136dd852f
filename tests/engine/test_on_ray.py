"""Tasks on Ray: what they make comes back, also where a process dies."""

import pytest
from facts import refused
from made_up_tasks import diamond, execute, graph_of, number

from fedmerge.cluster.config import BackendConfig
from fedmerge.engine.executors.on_ray import OnRay


@pytest.fixture
def executor(own_ray):
    made = OnRay(BackendConfig(kind="ray", workers=2, cpus=1.0), "cpu", "made_up_tasks:alike")
    yield made
    made.close()


def test_artifacts_travel_to_the_tasks_that_need_them_and_into_the_store(executor, tmp_path):
    tasks = diamond()
    store, states, _ = execute(graph_of(*tasks), tmp_path, executor)
    assert store.read(tasks[-1].name, "sum.json") == 11
    assert set(states.values()) == {"done"}
    assert store.damaged(states) == []  # each file is listed with its digest
    last = number(5, tasks[1])  # in a later process, which reads what it needs from the store
    executor._artifacts.clear()
    store, states, _ = execute(graph_of(*tasks, last), tmp_path, executor)
    assert store.read(last.name, "sum.json") == 5 + 3


def test_a_task_whose_process_dies_is_done_again_and_one_that_fails_is_not(executor, tmp_path):
    (tmp_path / "die").write_text("")
    good, bad = number(1), number(-1)
    store, states, _ = execute(
        graph_of(good, bad, number(2, good), number(3, bad, good)),
        tmp_path / "study",
        executor,
        options={"die": str(tmp_path / "die")},
    )
    assert not (tmp_path / "die").exists()
    assert (states[good.name], states[bad.name]) == ("done", "failed")
    assert store.read(bad.name, "job.json")["reason"] == "a number below 0."


def test_a_node_with_another_version_stops_the_work(executor, tmp_path):
    executor._alike = "made_up_tasks:alike", {"tests": "2"}
    with refused("1", "machine", "2"):
        execute(graph_of(number(1)), tmp_path, executor)
