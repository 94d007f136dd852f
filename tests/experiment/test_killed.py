"""A run that is killed anywhere, again and again, ends with the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from same_runs import outcome, same

from fedmerge import Result, run
from fedmerge.errors import FedMergeError
from fedmerge.federation.server import server
from fedmerge.seeding import numpy_generator
from fedmerge.storage import files
from tests.experiment.interrupting import forked, interrupt, not_resumed

KILLS = [6, pytest.param(20, marks=pytest.mark.slow)]


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
def test_killed_at_random_moments_it_ends_with_the_same_bits(every_kind, whole, tmp_path, kills):
    """Each run is killed once, a drawn while after a drawn number of its checkpoints, and resumed.

    A run that is faster than the look at its checkpoints dies later, or not at all.
    """
    os.waitpid(forked(lambda: run(every_kind, out=tmp_path / "unbroken")), 0)
    same(outcome(tmp_path / "unbroken"), whole.outcome)
    rng = numpy_generator(0, "kills")
    steps = rng.integers(0, checkpoints(tmp_path / "unbroken"), kills)
    for number, (step, pause) in enumerate(zip(steps, rng.uniform(0, 0.1, kills), strict=True)):
        folder = tmp_path / str(number)
        child = forked(lambda folder=folder: run(every_kind, out=folder))
        ended = False
        while checkpoints(folder) < step and not ended:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
            time.sleep(0.001)
        if not ended:
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)  # a child that has ended is there until it is waited for
            os.waitpid(child, 0)
        go_on(every_kind, folder)
        same(outcome(folder), whole.outcome)
        shutil.rmtree(folder)


def checkpoints(folder):
    """How many checkpoints of a run are there."""
    return sum(
        name.endswith(".json")
        for place, _, names in os.walk(folder)  # unlike rglob, it bears files that go while it looks
        if "journal" in place
        for name in names
    )


def test_killed_at_write_after_write_it_ends_with_the_same_bits(every_kind, whole, tmp_path):
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
            go_on(every_kind, folder)
            os._exit(7)

        _, status = os.waitpid(forked(work), 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        deaths += 1
    assert deaths > 3
    same(outcome(folder), whole.outcome)


def test_of_two_processes_that_resume_one_folder_one_goes_on(every_kind, whole, tmp_path, monkeypatch):
    """The other has its sentence while the first is in the middle, and changes nothing."""
    folder = tmp_path / "run"
    interrupt(every_kind, folder, monkeypatch, rounds=1)
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
        run(every_kind, resume=folder)

    child = forked(first)
    os.close(told)
    os.close(wait)
    assert os.read(inside, 1) == b"x"  # nothing comes where the child ends before
    not_resumed(folder, ("process", "work"), every_kind)
    os.close(go)
    os.waitpid(child, 0)
    os.close(inside)
    same(outcome(folder), whole.outcome)
