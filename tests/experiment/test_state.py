"""However a run ends, its folder says so: finished, failed, stopped, or killed, and where."""

import os
import shutil
import signal
import traceback
from pathlib import Path

import pytest
from facts import refused

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.query import query
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.folder.state import state_of, states
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.storage.files import read_sealed, write_sealed
from fedmerge.workflows import run as module


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(module, "write_report", lambda result, **_: None)


@pytest.fixture
def four_rounds(experiment):
    """The tiny experiment, with four rounds."""
    training = experiment["training"] | {"rounds": 4, "fine_tune": "none"}
    evaluation = experiment["evaluation"] | {"streams": ["iid"]}
    given = {"training": training, "fusion": ["mean"], "testtime": [], "evaluation": evaluation}
    return experiment | given | {"name": "tiny"}


def after_round(number, monkeypatch, do):
    """Do something when a round is in the journal."""
    write = RoundJournal.write

    def and_then(journal, kept):
        write(journal, kept)
        if kept.round == number:
            do()

    monkeypatch.setattr(RoundJournal, "write", and_then)


def in_a_child(work):
    """Do ``work`` in a process of its own, and wait for its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def state(folder):
    found = state_of(folder)
    assert found is not None
    return found


def test_a_run_that_was_killed_says_in_which_round_and_goes_on(four_rounds, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a"
    after_round(2, monkeypatch, kill)
    ended = in_a_child(lambda: run(four_rounds, out=folder))
    assert os.WTERMSIG(ended) == signal.SIGKILL
    found = state(folder)
    assert (found.state, found.words, found.goes_on) == (
        "killed", "killed in round 3 of 4", f"fedmerge run --resume {folder}",
    )  # fmt: skip
    assert found.heard == dict.fromkeys(found.heard, 2)
    assert len(found.heard) > 1
    with refused("killed", "3", "4"):
        open_result(folder)
    monkeypatch.undo()
    monkeypatch.setattr(module, "write_report", lambda result, **_: None)
    run(four_rounds, resume=folder)
    assert (state(folder).words, state(folder).resumed, state(folder).goes_on) == ("finished", 1, "")


def test_it_is_running_while_it_runs_whoever_asks(four_rounds, tmp_path, monkeypatch):
    seen = []
    after_round(1, monkeypatch, lambda: seen.append(state(tmp_path / "a").words))
    run(four_rounds, out=tmp_path / "a")
    assert seen == ["running in round 2 of 4"]
    assert state(tmp_path / "a").state == "finished"


def test_one_that_failed_says_why(four_rounds, tmp_path, monkeypatch):
    def fail():
        raise FedMergeError("the roof came down")

    after_round(3, monkeypatch, fail)
    with refused("roof"):
        run(four_rounds, out=tmp_path / "a")
    found = state(tmp_path / "a")
    assert (found.words, found.reason) == ("failed in round 4 of 4", "the roof came down")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_one_that_was_told_to_stop_was_stopped(four_rounds, tmp_path, monkeypatch, end):
    def stop():
        raise end

    after_round(1, monkeypatch, stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(four_rounds, out=tmp_path / "a")
    assert state(tmp_path / "a").words == "stopped in round 2 of 4"


def test_one_whose_report_cannot_be_made_has_failed_and_is_not_running(four_rounds, tmp_path, monkeypatch):
    def fail(result, **_):
        raise ValueError("no ink")

    monkeypatch.setattr(module, "write_report", fail)
    with refused("ink", kind=ValueError):
        run(four_rounds, out=tmp_path / "a")
    assert (state(tmp_path / "a").state, state(tmp_path / "a").reason) == ("failed", "ValueError: no ink")
    monkeypatch.setattr(module, "write_report", lambda result, **_: None)
    run(four_rounds, resume=tmp_path / "a")
    assert state(tmp_path / "a").state == "finished"


def changed(folder, **news):
    body = read_sealed(folder / "run.json")
    write_sealed(folder / "run.json", body | news)


def test_what_cannot_be_known_is_not_guessed(four_rounds, tmp_path):
    folder = tmp_path / "a"
    run(four_rounds, out=folder)
    process = {"pid": 1, "born": "x", "host": "elsewhere"}
    changed(folder, state="running", finished=False, process=process)
    assert (state(folder).state, "elsewhere" in state(folder).reason) == ("unknown", True)
    changed(folder, state="running", finished=False, process=None)
    assert state(folder).state == "unknown"
    changed(folder, process=process | {"pid": -4})
    assert state(folder).state == "unknown"
    (folder / "run.json").write_text("{")
    assert (state(folder).state, state(folder).reason) == ("unknown", "run.json is damaged")
    (folder / "run.json").unlink()
    assert state_of(folder) is None
    assert state_of(tmp_path / "nowhere") is None


def test_results_say_which_runs_are_not_all_there(four_rounds, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    run(four_rounds, out=runs / "a")
    after_round(1, monkeypatch, kill)
    in_a_child(lambda: run(four_rounds, out=runs / "b"))
    said = []
    rows = query("SELECT count(*) AS n FROM results", runs, tell=said.append)
    assert rows["n"][0] > 0
    assert len(said) == 1
    assert "killed in round 2 of 4" in said[0]
    assert str(runs / "b") in said[0]
    assert [each.state for each in states(runs)] == ["finished", "killed"]
    shutil.rmtree(runs / "b")
    said.clear()
    query("SELECT 1 FROM results", runs, tell=said.append)
    assert said == []


def test_it_is_where_the_configuration_s_order_says_whatever_the_clock_says(
    four_rounds, tmp_path, monkeypatch
):
    folder, times = tmp_path / "a", []

    def fail_the_second_time():
        times.append(1)
        if len(times) == 2:
            raise FedMergeError("enough")

    after_round(2, monkeypatch, fail_the_second_time)
    with refused("enough"):
        run(four_rounds | {"seeds": [7, 1]}, out=folder)
    for path in folder.joinpath("seed-7").rglob("*"):
        os.utime(path, (2**33, 2**33))  # the clock was wrong by a century while the first seed ran
    assert (state(folder).part, state(folder).words) == ("seed-1/federation", "failed in round 3 of 4")


def test_looking_changes_nothing(four_rounds, tmp_path, monkeypatch):
    after_round(2, monkeypatch, kill)
    in_a_child(lambda: run(four_rounds, out=tmp_path / "a"))

    def everything(folder: Path):
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}

    before = everything(tmp_path / "a")
    for _ in range(3):
        state(tmp_path / "a")
    assert everything(tmp_path / "a") == before
