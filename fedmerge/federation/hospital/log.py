"""The log that a hospital writes before it replies: a chained file in its folder; in a simulation, a list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedmerge.storage.chained_log import ChainedLog
from fedmerge.storage.files import make_folder, saying


class HospitalLog:
    """The base of a hospital's ledgers.

    folder: where ``file`` is kept beyond the process; None: entries are kept in ``memory``.
    """

    def __init__(self, folder: Path | None, file: str) -> None:
        self.memory: list[dict[str, Any]] = []
        self._folder = folder
        self._chain = None if folder is None else ChainedLog(folder / file)

    def _entries(self) -> list[dict[str, Any]]:
        """Return all entries. Raises BrokenChain for a log that was changed."""
        return self.memory if self._chain is None else self._chain.entries()

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; it is on the disk before this returns. Raises DiskError."""
        if self._chain is None:
            self.memory.append(json.loads(json.dumps(entry)))
        else:
            self._chain.append(entry)

    def _length(self) -> int:
        """Return the bytes of the log, or the number of entries in memory; it grows with every entry."""
        if self._chain is None:
            return len(self.memory)
        return self._chain.path.stat().st_size if self._chain.path.exists() else 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the log for the block, from reading to writing. Raises DiskError."""
        if self._chain is None or self._folder is None:
            yield
            return
        make_folder(self._folder)
        with saying(self._folder), FileLock(self._folder / f".{self._chain.path.stem}.lock"):
            yield
