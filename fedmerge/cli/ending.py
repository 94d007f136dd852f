"""SIGTERM, of a batch system, and SIGHUP, of a terminal that is closed, end a command as Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block at the first such signal; a second one ends the process at once.

    One that the caller has ignored (nohup), or handles itself, does what it did before.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def exit_code() -> int:
    """Return the exit code of a command that was interrupted: 128 and the number of the signal."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    for each in SIGNALS:
        if signal.getsignal(each) is _interrupt:
            signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt
