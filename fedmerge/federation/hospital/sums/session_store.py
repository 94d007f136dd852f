"""A hospital's cache of one fusion's models, on its own disk, for its next process."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import fedmerge.storage.own_files as own_files
from fedmerge.errors import FedMergeError
from fedmerge.models.state import State
from fedmerge.models.weights import write_weights
from fedmerge.storage.files import write_json

JOB, PARENTS, FUSED = "job.json", "parents.safetensors", "fused.safetensors"


class SessionStore:
    """A folder of the hospital with one session of sums: its job, the parents, the current fused model.

    Nobody else can read it. A new session replaces the one before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, session: str, job: Mapping[str, Any], parents: State) -> None:
        """Keep a session that begins. Raises DiskError."""
        place = self._place(session)
        self._clear()
        place.mkdir(parents=True, mode=0o700)
        self.folder.chmod(0o700)
        write_weights(place / PARENTS, parents)
        write_json(place / JOB, job)  # last: without it there is no session

    def find(self, session: str) -> tuple[dict[str, Any], State] | None:
        """Return job and parents of a session; None if it is not in the cache."""
        place = self._place(session)
        if not (place / JOB).is_file():
            return None
        return json.loads((place / JOB).read_text(encoding="utf-8")), load_file(place / PARENTS)

    def remember(self, session: str, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the fused model after a request. tensors: all of it (``walk``), or its changed entries."""
        news = {key: value for key, value in tensors.items() if not key.startswith(".")}
        fused = {} if kind == "walk" else self.fused(session)
        if news and (fused or kind == "walk"):
            write_weights(self._place(session) / FUSED, fused | news)

    def fused(self, session: str) -> State:
        """Return the current fused model; empty before a walk has begun."""
        file = self._place(session) / FUSED
        return load_file(file) if file.is_file() else {}

    def _place(self, session: str) -> Path:
        if not re.fullmatch(r"[0-9A-Za-z]+", session):  # it comes from the server, and names a folder here
            raise FedMergeError("the session of a fusion has no name that a hospital keeps it by.")
        return self.folder / session[:32]

    def _clear(self) -> None:
        """Delete earlier sessions and nothing else in the folder; follow no link."""
        if not self.folder.is_dir():
            return
        room = own_files.enter(self.folder)
        for place in self.folder.iterdir():
            if place.is_dir() and not place.is_symlink():
                for name in (JOB, PARENTS, FUSED):
                    room.remove_known(place / name)
                with suppress(OSError):
                    place.rmdir()
