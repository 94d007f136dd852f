"""Patience with a busy SuperLink: a call that it fails at is made again, where Flower's Grid would give up.

A SuperLink waits five seconds for its database. On a loaded machine that may not be enough, and it answers
HTTP 500 ("database is locked"), after which Flower 1.42 ends the run.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
from flwr.serverapp import Grid

PATIENCE = 300.0  # seconds


def be_patient(grid: Grid, seconds: float = PATIENCE) -> None:
    """Have a Flower Grid repeat calls that end with HTTP 500, until one has failed for ``seconds``.

    It changes the rule of the Grid's own retries; a Grid that has none, in a simulation, stays as it is.
    """
    retries: Any = getattr(grid, "_retry_invoker", None)
    if retries is None or retries.should_giveup is None:
        return
    gives_up, succeeded = retries.should_giveup, retries.on_success
    since: dict[int, float] = {}  # when the call of a thread failed first

    def should_give_up(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 500:
            thread = threading.get_ident()
            if time.monotonic() - since.setdefault(thread, time.monotonic()) < seconds:
                return False
            since.pop(thread)
        return bool(gives_up(error))

    def on_success(state: Any) -> None:
        since.pop(threading.get_ident(), None)
        if succeeded is not None:
            succeeded(state)

    retries.should_giveup, retries.on_success = should_give_up, on_success
