"""Runs that end before they are finished, and how they go on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from facts import refused

from fedmerge import run
from fedmerge.federation.server import server
from tests.interrupted import Died


def forked(work) -> int:
    """Do ``work`` in a process of its own, which has everything loaded already; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


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


def not_resumed(folder: Path, facts: tuple[object, ...], *args, **kwargs) -> None:
    with refused(*facts):
        run(*args, resume=folder, **kwargs)
