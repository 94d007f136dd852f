"""The progress of work: live on a terminal, else a line on stderr at least every ten seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedmerge.cli.app import say

Show = Callable[[str, float, float], None]
EVERY, LOOK = 8.0, 1.0
"""Seconds between two lines, and between two checks of the clock: together below ten."""


class Lines:
    """Lines of text about work in progress, at most one in ``EVERY`` seconds; short work has none.

    status: returns the progress in words. tell: takes a line. clock: seconds, as ``time.monotonic``.
    """

    def __init__(
        self,
        status: Callable[[], str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._tell, self._clock = status, tell, clock
        self._began = self._last = clock()

    def look(self) -> None:
        """Say a line if one is due."""
        now = self._clock()
        if now - self._last >= EVERY:
            self._last = now
            self._tell(f"after {clock(now - self._began)}: {self._status()}")


@contextmanager
def lines(console: Console, status: Callable[[], str]) -> Iterator[None]:
    """Print lines about the work in the block from a thread, so that silent work has them, too."""
    written = Lines(status, lambda line: say(console, line))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK):
            written.look()

    thread = threading.Thread(target=watch, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Stages:
    """Stages of work, one after the other: how far the present one is, and what is left at its rate so far.

    clock: seconds, as ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest = ("preparing", 0.0, 0.0)
        self._began = (clock(), 0.0)

    def take(self, text: str, done: float, total: float) -> None:
        """Note that ``done`` of ``total`` is done; a text that differs before its comma begins a stage."""
        if stage_of(text) != stage_of(self._latest[0]):
            self._began = (self._clock(), done)
        self._latest = (text, done, total)

    def words(self) -> str:
        """Return the present stage: ``training, north, 25 %, about 3 min 2 s left``."""
        text, done, total = self._latest
        if not total:
            return text
        since, before = self._began
        rate = (done - before) / max(self._clock() - since, 1e-9)
        left = f", about {clock((total - done) / rate)} left" if rate > 0 and done < total else ""
        return f"{text}, {100 * done / total:.0f} %{left}"


def stage_of(text: str) -> str:
    """Return the stage of a text that may name its part after a comma."""
    return text.split(", ")[0]


@contextmanager
def progress_bar(console: Console, quiet: bool = False) -> Iterator[Show]:
    """Yield a callback ``(stage, done, total)`` that draws a bar; off a terminal, or if quiet, prints lines.

    A stage may name its part after a comma ("training, north"); the bar and its clock run over the stage. A
    total of 0 means unknown.
    """
    if quiet or not console.is_terminal:
        stages = Stages()
        with lines(console, stages.words):
            yield stages.take
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        stage = ""

        def show(text: str, done: float, total: float) -> None:
            nonlocal stage
            begun = stage_of(text)
            if begun != stage:
                stage = begun
                bar.reset(task, total=total or None)
            bar.update(task, description=text, completed=done, total=total or None)

        yield show


def clock(seconds: float) -> str:
    """Return seconds as ``9 s``, ``12 min 5 s`` or ``3 h 4 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
