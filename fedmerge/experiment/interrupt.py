"""Ctrl-C: the first ends a run between two pieces of its work, the second at once."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A run was stopped; the text says how to resume it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "stopped: what is finished is kept. It goes on with: fedmerge run --resume "
            f"{shlex.quote(str(folder))}"
        )
        self.folder = folder


@contextmanager
def stoppable(asked: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Yield a function to call between two pieces of work: it raises KeyboardInterrupt after one Ctrl-C.

    asked: called on the first Ctrl-C. A second one raises KeyboardInterrupt wherever the process is. In
    another thread, or where the caller has a handler of its own, Ctrl-C does what it did before.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    times = 0

    def count(number: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times > 1:
            raise KeyboardInterrupt
        asked()

    def pause() -> None:
        if times:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, count)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
