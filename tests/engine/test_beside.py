"""An executor that does some tasks in a worker while others are done here."""

import signal
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import made_up_tasks
import pytest
from made_up_tasks import diamond, graph_of, number, runs

from fedmerge.engine.attempt import do
from fedmerge.engine.executors import processes
from fedmerge.engine.executors.beside import Beside
from fedmerge.engine.executors.processes import Processes
from fedmerge.engine.task import Assignment


@pytest.fixture(autouse=True)
def _no_runs():
    runs.clear()


@pytest.fixture
def workers():
    crew = Processes(1)
    yield crew
    crew.close()


def test_a_worker_does_what_it_may_and_this_process_the_rest(tmp_path, workers):
    first, left, right, last = diamond()
    both = Beside(do, workers, lambda task: task == left)
    store, states, events = made_up_tasks.execute(graph_of(first, left, right, last), tmp_path, both)
    assert store.read(last.name, "sum.json") == 11
    assert set(states.values()) == {"done"}
    assert runs == ["add 1", "add 3", "add 4"]
    started = [event.task.label for event in events if event.kind == "started"]
    assert started == ["add 1", "add 2", "add 3", "add 4"]


def test_what_a_worker_that_dies_was_at_is_done_here_and_so_is_all_that_follows(tmp_path, workers):
    first, second = number(1), number(2)
    last = number(3, first, second)
    (tmp_path / "die").touch()

    def here(assignment):
        return do(replace(assignment, options={}))

    store, _, events = made_up_tasks.execute(
        graph_of(first, second, last),
        tmp_path / "store",
        Beside(here, workers, lambda task: True),
        options={"die": str(tmp_path / "die")},
    )
    assert store.read(last.name, "sum.json") == 6
    assert sorted(runs) == ["add 1", "add 2", "add 3"]  # though the worker was replaced
    assert events[-1].progress.failed == 0


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit 3", ("exit code 3", "os._exit")),
        (f"signal {int(signal.SIGSEGV)}", ("crashed", "plug-in")),
        (f"signal {int(signal.SIGKILL)}", ("killed", "memory")),
    ],
)
def test_how_a_worker_has_ended_is_said_and_another_one_goes_on(tmp_path, workers, how, words):
    bad, good = number(1), number(2)
    end = Assignment(bad, "made_up_tasks:end", tmp_path, {"how": how})
    outcome = workers.submit(end).result()
    assert outcome.status == "lost"
    assert all(word in outcome.reason for word in words)
    assert workers.submit(Assignment(good, "made_up_tasks:add", tmp_path)).result().status == "done"


def test_one_that_is_closed_begins_no_process_for_the_one_it_killed(tmp_path, monkeypatch):
    crew, answer, killed = Processes(1), Future(), Future()
    (process,) = crew._free
    hears = crew._handing_on(process, Assignment(number(1), "", tmp_path), answer)
    monkeypatch.setattr(processes, "_process", lambda: pytest.fail("a process is begun"))
    crew.close()
    killed.set_exception(BrokenProcessPool("killed"))
    hears(killed)
    assert not answer.done()
