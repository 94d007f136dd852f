"""Executors on this machine: this process, or several processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from fedmerge.engine.attempt import do
from fedmerge.engine.executors import Executor
from fedmerge.engine.task import Assignment, Outcome, Task


class InProcess(Executor):
    """One task at a time, in this process; ``submit`` returns when it is done.

    perform: does a task; what it raises ends the schedule. By default an attempt in the assignment's store.
    """

    slots = 1

    def __init__(self, perform: Callable[[Assignment], Outcome] = do) -> None:
        self._perform = perform

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Do the task now."""
        future: Future[Outcome] = Future()
        future.set_result(self._perform(assignment))
        return future

    def forget(self, name: str) -> None:
        """Do nothing: artifacts lie in the store."""

    def close(self) -> None:
        """Do nothing: there is no worker."""


class Processes(Executor):
    """``slots`` processes side by side, one task at a time each; one that dies is replaced.

    perform: does a task there. By default an attempt in the assignment's store.
    """

    def __init__(self, slots: int, perform: Callable[[Assignment], Outcome] = do) -> None:
        self.slots, self._perform = slots, perform
        self._free = [_process() for _ in range(slots)]
        self._busy: list[ProcessPoolExecutor] = []
        self._closed = False

    def takes(self, task: Task) -> bool:
        """Whether a process is free."""
        return bool(self._free)

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Give the task to a free process."""
        process = self._free.pop()
        self._busy.append(process)
        answer: Future[Outcome] = Future()
        process.submit(self._perform, assignment).add_done_callback(
            self._handing_on(process, assignment, answer)
        )
        return answer

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any] | None:
        """Call a function of a module in a process; None where none is free. Give it no task meanwhile."""
        return self._free[-1].submit(function, *arguments) if self._free else None

    def forget(self, name: str) -> None:
        """Do nothing: artifacts lie in the store."""

    def close(self) -> None:
        """Kill the processes."""
        self._closed = True
        for process in (*self._free, *self._busy):
            for child in list((process._processes or {}).values()):
                child.kill()
            process.shutdown(wait=False, cancel_futures=True)

    def _handing_on(
        self, process: ProcessPoolExecutor, assignment: Assignment, answer: Future[Outcome]
    ) -> Callable[[Future[Outcome]], None]:
        def hand_on(future: Future[Outcome]) -> None:
            if self._closed:
                return  # it was killed by us, and nobody waits for it
            self._busy.remove(process)
            error = future.exception()
            if error is None:
                self._free.append(process)
                answer.set_result(future.result())
                return
            self._free.append(_process())
            if isinstance(error, BrokenProcessPool):
                reason = _end_of(process)
            else:
                reason = f"{type(error).__name__}: {error}"
                process.shutdown(wait=False)  # another one has its place
            answer.set_result(Outcome(assignment.task.name, "lost", reason))

        return hand_on


def local_executor(count: int) -> Executor:
    """Return an executor of ``count`` tasks at a time on this machine."""
    return InProcess() if count == 1 else Processes(count)


def _end_of(process: ProcessPoolExecutor) -> str:
    """Return how a process that is gone has ended, in words, as far as the system tells."""
    code = next((child.exitcode for child in (process._processes or {}).values()), None)
    if code is not None and code >= 0:
        return f"the code that it runs ended its process, with exit code {code}, as os._exit does."
    if code is not None and code not in (-signal.SIGKILL, -signal.SIGTERM):
        return f"the process that did it crashed ({signal.strsignal(-code)}), in a library or a plug-in."
    return "the process that did it was killed; perhaps memory ran out: use fewer workers."


def _process() -> ProcessPoolExecutor:
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    with _without_main(), _without_ctrl_c():
        process.submit(os.getpid)  # starts it
    return process


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start a process that ignores Ctrl-C, which a terminal sends to all: the one that started it ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there a handler can be set
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Start a process that does not run the caller's script again.

    A worker needs this package alone, so ``bench(..., workers=2)`` also works in a script that has no
    ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update({"__spec__": None} | kept)


def _end_with_parent() -> None:
    """End this worker when the bench's process ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
