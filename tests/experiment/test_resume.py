"""A run that dies goes on: killed anywhere, on a full disk, its files damaged, it ends with the same bits."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from facts import refused
from same_runs import outcome, same

from fedmerge import ModelPool, Result, run
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder import run_manifest as begun
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.folder.state import state_of
from fedmerge.federation.server import server
from fedmerge.models import weights
from fedmerge.seeding import numpy_generator
from fedmerge.storage import files
from fedmerge.storage.files import locked, read_sealed, write_sealed
from fedmerge.workflows import run as module

KILLS = [6, pytest.param(20, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def brief_report(monkeypatch):
    """The report takes longer than the run, and is made of the tables alone: here it is one line."""

    def write(result: Result, **_: Any) -> None:
        files.write_text(result.folder / "report.html", f"{len(result.table)} rows")

    monkeypatch.setattr(module, "write_report", write)


@pytest.fixture
def experiment(experiment):
    """The tiny experiment with one candidate of every kind."""
    evaluation = experiment["evaluation"] | {"streams": ["iid", "temporal"]}
    return experiment | {"fusion": ["mean", "greedy", "ensemble-logits"], "evaluation": evaluation}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


_cache: dict[str, Any] = {}


@pytest.fixture
def whole(experiment, place):
    """What an unbroken run leaves; made once for this file."""
    if "whole" not in _cache:
        run(experiment, out=place / "whole")
        _cache["whole"] = outcome(place / "whole")
    return _cache["whole"]


def forked(work) -> int:
    """Do ``work`` in a process of its own, which has everything loaded already; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def go_on(experiment, folder: Path) -> Result:
    """Resume the run; where it was killed before anything of it was kept, begin it."""
    try:
        return run(experiment, resume=folder)
    except FedMergeError as error:
        if not any(words in str(error) for words in ("nothing of it was kept", "it has no config.yaml")):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return run(experiment, out=folder)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(experiment, whole, tmp_path, kills):
    """Each run is killed once, a drawn while after a drawn number of its checkpoints, and resumed.

    A run that is faster than the look at its checkpoints dies later, or not at all.
    """
    os.waitpid(forked(lambda: run(experiment, out=tmp_path / "unbroken")), 0)
    same(outcome(tmp_path / "unbroken"), whole)
    rng = numpy_generator(0, "kills")
    steps = rng.integers(0, checkpoints(tmp_path / "unbroken"), kills)
    for number, (step, pause) in enumerate(zip(steps, rng.uniform(0, 0.1, kills), strict=True)):
        folder = tmp_path / str(number)
        child = forked(lambda folder=folder: run(experiment, out=folder))
        ended = False
        while checkpoints(folder) < step and not ended:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
            time.sleep(0.001)
        if not ended:
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)  # a child that has ended is there until it is waited for
            os.waitpid(child, 0)
        go_on(experiment, folder)
        same(outcome(folder), whole)
        shutil.rmtree(folder)


def checkpoints(folder):
    """How many checkpoints of a run are there."""
    return sum(
        name.endswith(".json")
        for place, _, names in os.walk(folder)  # unlike rglob, it bears files that go while it looks
        if "journal" in place
        for name in names
    )


def test_killed_at_write_after_write_it_ends_with_the_same_bits(experiment, whole, tmp_path):
    """One run, killed at one of its next writes again and again: before or after the file has its name.

    Which write, and which of the two, is drawn; a process has done at least one write when it is killed.
    """
    rng = numpy_generator(0, "writes")
    folder, deaths = tmp_path / "run", 0
    while True:
        dies_at, after = int(rng.integers(2, 17)), bool(rng.integers(2))

        def work(dies_at=dies_at, after=after):
            sync, syncs = files.sync, 0

            def dying(path):
                nonlocal syncs
                syncs += 1  # two a write: the file, and the folder with its new name
                if syncs == 2 * dies_at + after:
                    os.kill(os.getpid(), signal.SIGKILL)
                sync(path)

            files.sync = dying
            go_on(experiment, folder)
            os._exit(7)

        _, status = os.waitpid(forked(work), 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        deaths += 1
    assert deaths > 3
    same(outcome(folder), whole)


class Died(BaseException):
    """A process that ends here."""


def interrupt(experiment, folder: Path, monkeypatch, rounds: int) -> None:
    """A run that ends after so many rounds."""
    keep = server.Server._keep

    def dies(self, number, *rest):
        keep(self, number, *rest)
        if number == rounds:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(server.Server, "_keep", dies)
        with contextlib.suppress(Died):
            run(experiment, out=folder)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(experiment, whole, tmp_path, monkeypatch):
    interrupt(experiment, tmp_path / "run", monkeypatch, rounds=2)
    (path,) = (tmp_path / "run").rglob("0002-global.safetensors")
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    result = run(experiment, resume=tmp_path / "run")
    (remark,) = result.remarks
    assert "0002-global.safetensors' is damaged" in remark
    assert "go on after round 1" in remark
    assert result.provenance["resumed"][0]["remarks"] == [remark]
    same(outcome(tmp_path / "run"), whole)


def test_a_damaged_beginning_is_made_anew(experiment, whole, tmp_path, monkeypatch):
    interrupt(experiment, tmp_path / "run", monkeypatch, rounds=1)
    (tmp_path / "run" / "run.json").write_text("{")
    result = run(experiment, resume=tmp_path / "run")
    assert result.remarks == (f"'{tmp_path / 'run' / 'run.json'}' was damaged and is made anew.",)
    same(outcome(tmp_path / "run"), whole)


def test_the_weights_of_as_many_rounds_are_kept_as_the_configuration_says(experiment, tmp_path):
    run(experiment, changes=["training.rounds=4", "federation.keep=3", "testtime=[]"], out=tmp_path / "run")
    kept = [path.name for path in (tmp_path / "run/seed-0/federation/journal/rounds").glob("*.safetensors")]
    assert sorted(kept) == [f"000{number}-global.safetensors" for number in (2, 3, 4)]


def test_a_finished_run_is_returned_as_it_is(experiment, whole, place, monkeypatch):
    def nothing(*args, **kwargs):
        raise AssertionError("it did something")

    monkeypatch.setattr(module, "run_seed", nothing)
    result = run(experiment, resume=place / "whole")
    assert result.remarks == (f"the run in '{place / 'whole'}' is finished: nothing of it was done again.",)
    pd.testing.assert_frame_equal(
        result.table.drop(columns="seconds"), whole["tables"]["results"], check_dtype=False
    )


def test_a_run_without_tables_yet_says_how_it_goes_on(experiment, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.Result, "save", lambda self: None)
        interrupt(experiment, tmp_path / "run", monkeypatch, rounds=1)
    with refused("finished", "2", "--resume"):
        open_result(tmp_path / "run")


def test_a_run_in_use_is_a_sentence(experiment, place, whole):
    with locked(place / "whole", "?"), refused("process", "work"):
        run(experiment, resume=place / "whole")


def test_of_two_processes_that_resume_one_folder_one_goes_on(experiment, whole, tmp_path, monkeypatch):
    """The other has its sentence while the first is in the middle, and changes nothing."""
    folder = tmp_path / "run"
    interrupt(experiment, folder, monkeypatch, rounds=1)
    inside, told = os.pipe()
    wait, go = os.pipe()
    keep = server.Server._keep

    def held(self, *args):
        os.write(told, b"x")
        os.read(wait, 1)
        keep(self, *args)

    def first():
        os.close(inside)
        os.close(go)
        server.Server._keep = held
        run(experiment, resume=folder)

    child = forked(first)
    os.close(told)
    os.close(wait)
    assert os.read(inside, 1) == b"x"  # nothing comes where the child ends before
    not_resumed(folder, ("process", "work"), experiment)
    os.close(go)
    os.waitpid(child, 0)
    os.close(inside)
    same(outcome(folder), whole)


def test_a_clock_set_back_changes_nothing(experiment, whole, tmp_path, monkeypatch):
    interrupt(experiment, tmp_path / "run", monkeypatch, rounds=1)
    monkeypatch.setattr(begun, "now", lambda: "2001-01-01T00:00:00+00:00")
    run(experiment, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole)
    assert state_of(tmp_path / "run").state == "finished"


def not_resumed(folder: Path, facts: tuple[object, ...], *args, **kwargs) -> None:
    with refused(*facts):
        run(*args, resume=folder, **kwargs)


def test_another_configuration_is_refused(experiment, place, whole):
    folder = place / "whole"
    not_resumed(folder, ("training.rounds", "2", "3"), experiment, changes=["training.rounds=3"])
    not_resumed(folder, ("seeds", "[0]", "[7]"), experiment, seed=7)
    not_resumed(folder, ("device", "auto", "cpu"), experiment, device="cpu")
    not_resumed(folder, ("--resume", "--out"), experiment, out=folder)
    not_resumed(folder, ("arrays", "memory"))
    not_resumed(place, (place, "folder", "run"))


def test_a_changed_folder_or_other_images_are_refused(experiment, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupt(experiment, folder, monkeypatch, rounds=1)
    spec = experiment["cohort"]
    source = spec.sites[1].source
    images = source.images.copy()
    images[0, 0, 0] ^= 1
    changed = spec.sites[1].model_copy(update={"source": type(source)(images, source.labels)})
    other = spec.model_copy(update={"sites": (spec.sites[0], changed, *spec.sites[2:])})
    not_resumed(folder, ("configuration", "cohort.sites"), experiment | {"cohort": other})

    begun = read_sealed(folder / "run.json")
    write_sealed(folder / "run.json", begun | {"device": "cuda:0 (NVIDIA H100)"})
    not_resumed(folder, ("cuda:0 (NVIDIA H100)", "cpu"), experiment)
    write_sealed(folder / "run.json", begun | {"data": begun["data"] | {"beta": "0" * 64}})
    not_resumed(folder, ("beta", "images"), experiment)
    write_sealed(folder / "run.json", begun | {"stages": begun["stages"] | {"evaluate": 1}})
    not_resumed(folder, ("evaluate", begun["versions"]["fedmerge"], "numbers"), experiment)
    write_sealed(folder / "run.json", begun | {"versions": begun["versions"] | {"torch": "1.0"}})
    assert "begun with torch 1.0: its numbers may differ" in run(experiment, resume=folder).remarks[0]

    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["training"]["rounds"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    not_resumed(folder, ("config.yaml", "changed"), experiment)


def test_a_full_disk_ends_with_a_sentence_and_what_is_finished_is_kept(
    experiment, whole, tmp_path, monkeypatch
):
    """The disk is full from the fifth set of weights on, and the tables have no room either."""
    save, write, saved = weights.save_file, files.write_text, []

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def save_some(*args, **kwargs):
        saved.append(1)
        if len(saved) > 4:
            no_room()
        save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", save_some)
        patch.setattr(module, "write_report", no_room)
        with refused("disk", "fedmerge", "--resume"):
            run(experiment, out=tmp_path / "run")
    assert files.write_text is write
    journal = tmp_path / "run" / "seed-0" / "federation" / "journal"
    assert sorted(path.name for path in journal.rglob("*.json")) == [
        "0001.json", "0002.json", "alpha.json", "beta.json", "rounds.json",
    ]  # fmt: skip
    run(experiment, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, with little room, where this user may have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_real_disk_that_fills_up(experiment, whole, small_disk):
    """Room is taken away until the run dies of it, and given back a little at a time until it is finished."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    endings = []
    for room in (300_000, 250_000, 200_000, 150_000, 0):
        os.truncate(ballast, room)
        try:
            run(experiment, resume=small_disk / "run") if endings else run(experiment, out=small_disk / "run")
        except FedMergeError as error:
            endings.append(str(error))
    assert endings
    assert all("the disk is full" in ending for ending in endings)
    same(outcome(small_disk / "run"), whole)


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
sys.argv[0] = "fedmerge"
from fedmerge.cli import main
main()
"""
SLOW = [
    "--set", "training.rounds=400", "--set", "training.epochs=1", "--set", "threads=1",
    "--set", "fusion=[mean]", "--set", "testtime=[]",
]  # fmt: skip


@contextlib.contextmanager
def started(*args: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, of which nothing is left after the block."""
    command = [sys.executable, "-c", SCRIPT, *args]
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for each in psutil.pids():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(each) == process.pid:
                    os.kill(each, signal.SIGKILL)
        process.wait()


def left_of(session: int) -> list[str]:
    """The processes of a session that still run."""
    command = ["ps", "-eo", "sid=,stat=,args="]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [row.split(maxsplit=2) for row in rows]
    return [row[-1] for row in found if row[0] == str(session) and not row[1].startswith("Z")]


def rounds_of(folder: Path) -> list[Path]:
    return sorted((folder / "seed-0/federation/journal/rounds").glob("*.json"))


def wait_for(condition, seconds: float = 600) -> None:
    """It ends one that hangs; how fast a machine starts Ray is no part of a test."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


RAY = ["--backend", "ray", "--workers", "2"]


@pytest.mark.parametrize(("place", "presses"), [([], 1), ([], 2), (RAY, 1)])
def test_ctrl_c_ends_it_with_everything_kept(tmp_path, place, presses):
    """The terminal sends it to all processes of the run; none of them is left afterwards."""
    if place:
        pytest.importorskip("ray")
    with started("run", "quickstart", "--out", "run", *SLOW, *place, cwd=tmp_path) as process:
        wait_for(lambda: len(rounds_of(tmp_path / "run")) > 1 or process.poll() is not None)
        for _ in range(presses):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 130, err
        *before, last = err.splitlines()
        assert last == "stopped: what is finished is kept. It goes on with: fedmerge run --resume run"
        assert all(line.startswith("after ") for line in before)  # a slow machine has time for some
        assert out == ""
        wait_for(lambda: not left_of(process.pid))
    done = len(rounds_of(tmp_path / "run"))
    if presses == 1:  # the second may come while the tables are written
        assert len(pd.read_csv(tmp_path / "run" / "history.csv")) >= 8 * done  # four train, four validate
    assert not read_sealed(tmp_path / "run" / "run.json")["finished"]


def test_one_ctrl_c_lets_the_message_in_flight_end(experiment, whole, tmp_path, monkeypatch):
    """It comes while beta fine-tunes: beta's model is kept, gamma's is not begun."""
    from fedmerge.federation.hospital import hospital
    from fedmerge.training import fit

    asked = []

    def pressed(*args, **kwargs):
        if kwargs["draws"].purpose == "fine-tune":
            asked.append(kwargs["draws"].site)
            if asked[-1] == "beta":
                signal.raise_signal(signal.SIGINT)
        return fit(*args, **kwargs)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(hospital, "fit", pressed)
            with refused("fedmerge", "run", "--resume", kind=KeyboardInterrupt):
                run(experiment, out=tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == ["alpha", "beta"]
    assert list(ModelPool(tmp_path / "run/seed-0/federation/pool")) == ["alpha", "beta"]
    run(experiment, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole)


def test_numbers_of_processes_that_died_are_not_in_the_seconds(experiment, tmp_path, monkeypatch):
    interrupt(experiment, tmp_path / "run", monkeypatch, rounds=1)
    begun = read_sealed(tmp_path / "run" / "run.json")
    result = run(experiment, resume=tmp_path / "run")
    assert result.provenance["started"] == begun["started"]
    assert result.provenance["seconds"] >= begun["seconds"]
    assert np.isfinite(result.provenance["seconds"])
