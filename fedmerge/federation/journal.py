"""What a federation's rounds leave on the disk, so that a run that dies goes on after the last of them.

    0007.json                   the rows of round 7 and the SHA-256 of its files, written last: now it counts
    0007-released.json          the same of a private round before anybody was sent its model (``released``)
    0007-global.safetensors     the global model after it
    0007-strategy.safetensors   what the server gathers over the rounds, where it does
    0007-memories.safetensors   what the hospitals keep to themselves, as SITE/ENTRY, where they do

Rows stay for good; weights are kept of the last rounds alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.files import Damaged, check_digest, digest, make_folder, read_sealed, write_sealed
from fedmerge.models.pool import load_weights, write_weights
from fedmerge.models.state import State

Row = dict[str, Any]
FINISHED, RELEASED = ".json", "-released.json"


@dataclass(frozen=True)
class Position:
    """A federation after a round: its model, what server and hospitals keep, all rows up to it.

    asked: of a private round's model, the hospitals that were asked for it.
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

    keep: of how many rounds the weights stay. damaged: what could not be read, in sentences, as it is found.
    """

    def __init__(self, folder: Path, keep: int = 2, damaged: list[str] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.damaged = [] if damaged is None else damaged

    def write(
        self,
        round: int,
        state: State,
        strategy: State,
        memories: Mapping[str, State],
        history: list[Row],
        failures: list[Row],
    ) -> None:
        """Keep a finished round. history, failures: what it added. Raises DiskError; it is not kept then."""
        self._write(FINISHED, round, state, strategy, memories, history, failures)

    def release(
        self,
        round: int,
        state: State,
        strategy: State,
        history: list[Row],
        failures: list[Row],
        asked: Sequence[str],
    ) -> None:
        """Keep a round's model before it is shown to anybody: noise is in it that is never drawn again."""
        self._write(RELEASED, round, state, strategy, {}, history, failures, asked)

    def _write(
        self,
        ending: str,
        round: int,
        state: State,
        strategy: State,
        memories: Mapping[str, State],
        history: list[Row],
        failures: list[Row],
        asked: Sequence[str] = (),
    ) -> None:
        make_folder(self.folder)
        joined = {f"{site}/{key}": value for site, kept in memories.items() for key, value in kept.items()}
        files = {}
        for name, tensors in (("global", state), ("strategy", strategy), ("memories", joined)):
            if tensors:
                path = self._path(round, f"-{name}.safetensors")
                write_weights(path, tensors)
                files[name] = digest(path)
        rows = {"history": history, "failures": failures}
        body = {"round": round, "files": files} | ({"asked": list(asked)} if asked else {})
        write_sealed(self._path(round, ending), body | rows)
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob(f"*{RELEASED}")]:
            if int(path.name.partition("-")[0]) <= round - self.keep:
                path.unlink()

    def newest(self) -> Position | None:
        """The last round that is whole, with the rows of all before it; None where there is none."""
        bodies: list[dict[str, Any]] = []
        try:
            while (path := self._path(len(bodies) + 1, FINISHED)).is_file():
                bodies.append(read_sealed(path))
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
        """A round that was cut off once its model was ready, with its own rows alone; None for any other."""
        path = self._path(round, RELEASED)
        if not path.is_file():
            return None
        try:
            return self._position([read_sealed(path)])
        except Damaged as damage:
            self.damaged.append(f"{damage} Round {round} is done again, and counts twice for privacy.")
            return None

    def _position(self, bodies: list[dict[str, Any]]) -> Position:
        last = bodies[-1]
        held: dict[str, State] = {"global": {}, "strategy": {}, "memories": {}}
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
