"""Ctrl-C ends a run with a sentence and keeps what is finished."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from facts import refused
from same_runs import outcome, same

from fedmerge import ModelPool, run
from fedmerge.storage.files import read_sealed

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


def test_one_ctrl_c_lets_the_message_in_flight_end(every_kind, whole, tmp_path, monkeypatch):
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
                run(every_kind, out=tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == ["alpha", "beta"]
    assert list(ModelPool(tmp_path / "run/seed-0/federation/pool")) == ["alpha", "beta"]
    run(every_kind, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole.outcome)
