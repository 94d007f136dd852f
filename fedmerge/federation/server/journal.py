"""The journal of a federation's rounds on disk, from which a run that died resumes after the last round.

    0007.json                   rows of round 7 and the SHA-256 of its files, written last: the round is kept
    0007-released.json          the same for a private round, before anybody is sent its model (``released``)
    0007-global.safetensors     the global model after round 7
    0007-strategy.safetensors   the server's state over the rounds, where it has one
    0007-memories.safetensors   the client states, as SITE/ENTRY, where hospitals have them
    0008-sum.safetensors        a secure sum of an unfinished round; its hospitals are in 0008-sum.json
    run.json                    a unique name of this run, for the labels of its secure sums

Rows are kept for good, weights only of the last rounds.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmerge.models.state import State
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.storage.files import Damaged, check_digest, make_folder, read_sealed, write_sealed
from fedmerge.storage.own_files import own_room
from fedmerge.storage.room import Room

Row = dict[str, Any]
FINISHED, RELEASED = ".json", "-released.json"
KINDS = ("global", "strategy", "memories")
_OLD = re.compile(rf"(\d{{4,}})(?:-(?:{'|'.join(KINDS)})\.safetensors|{re.escape(RELEASED)})")


@dataclass(frozen=True)
class Position:
    """A federation after a round: the model, the state of server and clients, all rows so far.

    asked: for a private round, the hospitals that were asked to train.
    """

    round: int
    state: State
    strategy: State
    memories: dict[str, State]
    history: list[Row]
    failures: list[Row]
    asked: tuple[str, ...] = ()


class RoundJournal:
    """The finished rounds of one federation in one folder.

    keep: the number of rounds whose weights are kept. damaged: a sentence for each unreadable file.
    """

    def __init__(self, folder: Path, keep: int = 2, damaged: list[str] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.damaged = [] if damaged is None else damaged

    def write(self, position: Position) -> None:
        """Keep a finished round with the rows it added. Raises DiskError; the round is not kept then."""
        self._write(FINISHED, position)
        for gone in ("-sum.json", "-sum.safetensors"):
            self._own().remove(self._path(position.round, gone))

    def release(self, position: Position) -> None:
        """Keep a private round's model before anybody sees it, because its noise is never drawn again."""
        self._write(RELEASED, position)

    def _own(self) -> Room:
        """Return the room of the folder; make the folder if it is missing. Raises DiskError."""
        make_folder(self.folder)
        return own_room(self.folder)

    def _write(self, ending: str, position: Position) -> None:
        room = self._own()
        joined = {
            f"{site}/{key}": each for site, own in position.memories.items() for key, each in own.items()
        }
        files = {}
        for name, tensors in zip(KINDS, (position.state, position.strategy, joined), strict=True):
            if tensors:
                files[name] = write_weights(self._path(position.round, f"-{name}.safetensors"), tensors)
        rows = {"history": position.history, "failures": position.failures}
        body = {"round": position.round, "files": files} | (
            {"asked": list(position.asked)} if position.asked else {}
        )
        write_sealed(self._path(position.round, ending), body | rows)
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob(f"*{RELEASED}")]:
            found = _OLD.fullmatch(path.name)
            if found is not None and int(found[1]) <= position.round - self.keep:
                room.remove(path)

    def run(self) -> str:
        """Return the name of this run; draw it at the first call. Raises DiskError."""
        path = self.folder / "run.json"
        with suppress(Damaged, OSError, KeyError, TypeError):
            return str(read_sealed(path)["run"])
        self._own()
        return str(write_sealed(path, {"run": secrets.token_hex(16)})["run"])

    def write_sum(self, round: int, names: Sequence[str], words: np.ndarray) -> None:
        """Keep a secure sum before it is used, because its hospitals give no other. Raises DiskError."""
        self._own()
        path = self._path(round, "-sum.safetensors")
        made = write_weights(path, {"words": torch.from_numpy(words.view(np.int64))})
        write_sealed(self._path(round, "-sum.json"), {"names": list(names), "file": made})

    def read_sum(self, round: int) -> tuple[list[str], np.ndarray] | None:
        """Return the hospitals of a kept sum and the sum; None if it is missing or damaged."""
        path, sealed = self._path(round, "-sum.safetensors"), self._path(round, "-sum.json")
        if not sealed.is_file():
            return None
        try:
            said = read_sealed(sealed)
            check_digest(path, said["file"])
        except Damaged as damage:
            self.damaged.append(f"{damage} The hospitals are asked for it again.")
            return None
        return said["names"], load_weights(path)["words"].numpy().view(np.uint64)

    def newest(self) -> Position | None:
        """Return the last undamaged round, with the rows of all rounds before it; None without one."""
        bodies: list[dict[str, Any]] = []
        try:
            while (path := self._path(len(bodies) + 1, FINISHED)).is_file():
                bodies.append(_body(path, len(bodies) + 1))
        except Damaged as damage:
            self.damaged.append(f"{damage} The rounds go on after round {len(bodies)}.")
        while bodies:
            try:
                return self._position(bodies)
            except Damaged as damage:
                bodies.pop()
                self.damaged.append(f"{damage} The rounds go on after round {len(bodies)}.")
        return None

    def released(self, round: int) -> Position | None:
        """Return a round kept by ``release``, with its own rows alone; None without one."""
        path = self._path(round, RELEASED)
        if not path.is_file():
            return None
        try:
            return self._position([_body(path, round)])
        except Damaged as damage:
            self.damaged.append(f"{damage} Round {round} is done again, and counts twice for privacy.")
            return None

    def _position(self, bodies: list[dict[str, Any]]) -> Position:
        last = bodies[-1]
        held: dict[str, State] = {name: {} for name in KINDS}
        for name, expected in last["files"].items():
            path = self._path(last["round"], f"-{name}.safetensors")
            check_digest(path, expected)
            held[name] = load_weights(path)
        memories: dict[str, State] = {}
        for key, value in held["memories"].items():
            site, _, entry = key.partition("/")
            memories.setdefault(site, {})[entry] = value
        rows = {name: [row for body in bodies for row in body[name]] for name in ("history", "failures")}
        asked = tuple(last.get("asked", ()))
        return Position(last["round"], held["global"], held["strategy"], memories, **rows, asked=asked)

    def _path(self, round: int, ending: str) -> Path:
        return self.folder / f"{round:04d}{ending}"


def _body(path: Path, round: int) -> dict[str, Any]:
    """Read a round's file. Raises Damaged for any other form."""
    body = read_sealed(path)
    good = (
        isinstance(body, dict)
        and body.get("round") == round
        and isinstance(body.get("files"), dict)
        and body["files"].keys() <= set(KINDS)
        and all(isinstance(body.get(name), list) for name in ("history", "failures"))
    )
    if not good:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")
    return dict(body)
