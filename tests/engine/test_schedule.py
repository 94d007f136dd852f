"""The engine with tasks that are made up: a task adds up what it needs, and its own number."""

import made_up_tasks
import pytest
from facts import refused
from made_up_tasks import diamond, graph_of, number, runs

from fedmerge.engine.attempt import do
from fedmerge.engine.executors.processes import InProcess
from fedmerge.engine.store import Store, StoreStopped
from fedmerge.engine.task import Assignment, task_of
from fedmerge.storage.files import write_text


@pytest.fixture(autouse=True)
def _no_runs():
    runs.clear()


def execute(graph, folder, **options):
    return made_up_tasks.execute(graph, folder, InProcess(), **options)


def test_each_task_once_after_what_it_needs(tmp_path):
    tasks = diamond()
    store, states, events = execute(graph_of(*tasks), tmp_path)
    assert store.read(tasks[-1].name, "sum.json") == 11
    assert runs == ["add 1", "add 2", "add 3", "add 4"]
    assert set(states.values()) == {"done"}
    kinds = [(event.kind, event.task.label) for event in events if event.task]
    assert kinds[:2] == [("started", "add 1"), ("ended", "add 1")]
    assert (events[-1].progress.done, events[-1].progress.left) == (4, 0)
    runs.clear()
    execute(graph_of(*tasks), tmp_path)
    assert runs == []


def test_a_name_is_that_of_all_that_decides(tmp_path):
    one = task_of({"kind": "add", "number": 1}, [], "one")
    same = [task_of({"number": 1, "kind": "add"}, (), "another label")]
    others = [
        task_of({"kind": "add", "number": 2}, [], "one"),
        task_of({"kind": "add", "number": 1}, [one.name], "one"),
        task_of({"kind": "add", "number": 1}, [], "one", content="other images"),
        task_of({"kind": "add", "number": 1}, [], "one", version=2),
    ]
    assert [task.name for task in same] == [one.name]
    assert len({one.name, *(task.name for task in others)}) == 5


def test_a_failed_task_takes_with_it_what_needs_it_alone(tmp_path):
    first, bad = number(1), number(-1)
    last = number(4, number(2, bad), first)
    middle = number(2, bad)
    graph = graph_of(first, bad, middle, last)
    store, states, events = execute(graph, tmp_path)
    assert [states[task.name] for task in graph.tasks.values()] == ["done", "failed", "failed", "failed"]
    assert store.read(bad.name, "job.json")["reason"] == "a number below 0."
    assert events[-1].progress.last_failure == "add -1: a number below 0."
    assert runs == ["add 1", "add -1"]
    runs.clear()
    execute(graph, tmp_path)
    assert runs == []  # what failed stays failed, unless it is to be tried again
    execute(graph, tmp_path, retry=True)
    assert runs == ["add -1"]


def test_models_that_nothing_needs_any_more_are_dropped_and_made_again_where_they_are(tmp_path):
    first, left, right, last = diamond()
    store, states, _ = execute(graph_of(first, left, right, last), tmp_path, keep=False)
    assert [states[task.name] for task in (first, left, right, last)] == ["dropped"] * 3 + ["done"]
    assert store.read(left.name, "sum.json") == 3
    runs.clear()
    execute(graph_of(first, left, right, last, number(5, left)), tmp_path)
    assert runs == ["add 1", "add 2", "add 5"]


def test_an_attempt_that_resumes_finds_its_files_and_no_marker(tmp_path):
    store, task = Store(tmp_path), number(1)
    write_text(store.part(task.name) / "half.json", "1")
    write_text(store.part(task.name, keep=True) / "failed", "")
    with store.locked(kept=[task.name]):
        do(Assignment(task, "made_up_tasks:add", tmp_path, resumes=True))
    assert store.state(task.name) == "done"
    assert store.read(task.name, "half.json") == 1
    assert not (store.jobs / task.name / "failed").exists()


def test_a_full_disk_stops_the_schedule_and_the_task_is_still_to_do(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made_up_tasks, "add", full)
    with refused("disk", "full", kind=StoreStopped):
        execute(graph_of(number(1)), tmp_path)
    assert Store(tmp_path).state(number(1).name) == "missing"


def test_a_task_that_cannot_be_done_here_stops_the_schedule_and_is_still_to_do(tmp_path):
    with refused("plug-in", "mine.py", kind=StoreStopped):
        execute(graph_of(number(1), number(2)), tmp_path, options={"stop": "there is no plug-in mine.py."})
    assert runs == ["add 2"]  # what the last one needs; nothing after it
    assert set(Store(tmp_path).states([number(1).name, number(2).name]).values()) == {"missing"}
    assert not list(tmp_path.glob("jobs/.*.part"))
