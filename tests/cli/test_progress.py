"""Work that prints to a pipe says what runs and how far it is, at least every ten seconds."""

from __future__ import annotations

import io
import itertools
import re
import time

import pytest
from rich.console import Console

from fedmerge.cli import progress
from fedmerge.cli.bench import _View, live_view
from fedmerge.cli.progress import EVERY, LOOK, Lines, Stages, clock, progress_bar
from fedmerge.engine.events import Event, GraphProgress
from fedmerge.experiment.stages.record import Record


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_two_lines_are_never_ten_seconds_apart_and_short_work_has_none():
    """Looked at every ``LOOK`` seconds for two minutes: silent before EVERY, then no gap of ten seconds."""
    now, said = Clock(), []
    lines = Lines(lambda: "at work", lambda line: said.append((now.now - 100, line)), now)
    while now.now < 220:
        now.now += LOOK
        lines.look()
    times = [0.0, *(when for when, _ in said)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[1] >= EVERY
    assert max(gaps) < 10
    assert min(gaps) >= EVERY
    assert 120 - times[-1] < 10
    assert said[0][1] == f"after {round(times[1])} s: at work"
    assert EVERY + LOOK < 10


def test_a_stage_says_what_is_left_at_its_rate_so_far():
    """A quarter in 20 s leaves 60 s; a new stage counts anew, also from where a resumed run begins it."""
    now = Clock()
    stages = Stages(now)
    assert stages.words() == "preparing"
    stages.take("training, north", 0, 12)
    assert stages.words() == "training, north, 0 %"
    now.now += 20
    stages.take("training, south", 3, 12)
    assert stages.words() == "training, south, 25 %, about 1 min 0 s left"
    stages.take("fusion, kf", 6, 8)
    assert stages.words() == "fusion, kf, 75 %"
    now.now += 5
    stages.take("fusion, kf", 7, 8)
    assert stages.words() == "fusion, kf, 88 %, about 5 s left"
    stages.take("fusion, kf", 8, 8)
    assert stages.words() == "fusion, kf, 100 %"


def test_what_is_said_is_what_holds_at_that_moment():
    now, said, status = Clock(), [], ["reading"]
    lines = Lines(lambda: status[0], said.append, now)
    now.now += EVERY
    lines.look()
    status[0] = "training"
    now.now += 60
    lines.look()
    lines.look()
    assert said == ["after 8 s: reading", "after 1 min 8 s: training"]


@pytest.fixture
def quick(monkeypatch):
    """Every second is a hundredth of one."""
    monkeypatch.setattr(progress, "EVERY", EVERY / 100)
    monkeypatch.setattr(progress, "LOOK", LOOK / 100)


def until(stream: io.StringIO, words: str) -> str:
    end = time.monotonic() + 30
    while words not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_work_of_unknown_length_has_no_per_cent(quick, terminal):
    """As many parts as are in flight come after Ctrl-C; two would be 200 % of one."""
    stream = io.StringIO()
    with progress_bar(Console(file=stream, width=200, force_terminal=terminal)) as show:
        record = Record({}, show)
        step = record.stage("stopping", jobs=0)
        for part in ("north", "south"):
            step(part, 1, 1)
        assert "stopping, south" in until(stream, "stopping, south")
    assert "%" not in stream.getvalue().replace("\x1b", "")


def test_a_step_counts_in_its_own_stage_and_what_stops_says_so():
    """Of two streams each is a half, also where another stage was begun and ended in between."""
    seen = []
    record = Record({}, lambda *told: seen.append(told))
    streams = record.stage("measuring", jobs=2)
    streams("iid", 1, 1)
    record.stage("tuning")("1 of 1", 1, 1)
    streams("temporal", 1, 1)
    record.stopping("stopping")
    streams("late", 1, 1)
    assert seen[1:] == [
        ("measuring, iid", 1, 2),
        ("tuning", 0, 1),
        ("tuning, 1 of 1", 1, 1),
        ("measuring, temporal", 2, 2),
        ("stopping", 0, 0),
        ("stopping", 0, 0),
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_work_that_never_reports_has_lines_from_a_thread_of_its_own(quick, quiet):
    stream = io.StringIO()
    with progress_bar(Console(file=stream, width=200), quiet=quiet) as show:
        assert "preparing" in until(stream, "preparing")
        show("seed 0: training, north", 3, 12)
        assert "seed 0: training, north, 25 %" in until(stream, "25 %")
    said = stream.getvalue()
    time.sleep(0.3)
    assert stream.getvalue() == said
    assert all(re.fullmatch(r"after \d+ s: .+", line) for line in said.splitlines())


def test_on_a_terminal_there_is_the_live_display_unless_it_is_quiet(quick):
    for quiet in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, width=200, force_terminal=True)
        with progress_bar(console, quiet=quiet) as show:
            show("training", 1, 2)
            if quiet:
                until(stream, "after")
        assert ("after" in stream.getvalue()) == quiet


def test_a_study_says_its_jobs_and_what_runs_now(quick):
    stream = io.StringIO()
    with live_view(Console(file=stream, width=300)) as watch:
        assert "reading the study" in until(stream, "reading the study")
        running = {"slow, seed 0: rounds": time.monotonic() - 75}
        watch(Event("tick", GraphProgress(40, 9, 1, running, seconds_left=3700.0)))
        said = until(stream, "jobs")
    assert "10 of 40 jobs, 1 failed, about 1 h 1 min left; now slow, seed 0: rounds (1 min 15 s)" in said


def test_a_study_that_waits_says_no_job():
    view = _View()
    view.take(Event("tick", GraphProgress(4, 4)))
    assert view.line() == "4 of 4 jobs"


@pytest.mark.parametrize(("seconds", "words"), [(9.4, "9 s"), (725, "12 min 5 s"), (11040, "3 h 4 min")])
def test_times_in_words(seconds, words):
    assert clock(seconds) == words
