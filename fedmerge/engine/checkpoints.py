"""The checkpoints inside a task: each finished part is on disk before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedmerge.engine.rows import RowBuffer
from fedmerge.storage.files import Damaged, check_digest, digest, make_folder, read_sealed, write_sealed
from fedmerge.storage.own_files import own_room

Note = dict[str, Any]


class Checkpoints:
    """The checkpoints of one task, under ``folder/journal``, each a sealed file by its name.

    A checkpoint is named by words, ("evaluation", "coast", "mean"). One whose name begins with another's is
    part of that one, and is kept within it once that is finished.

    folder: None keeps nothing on disk. rows: what is measured; a checkpoint holds the rows added in it.
    owned: patterns of folders of which only files of a finished checkpoint count. remarks: takes a sentence
    for each that is damaged. pause: called after each checkpoint, where work may end with nothing lost.
    """

    def __init__(
        self,
        folder: Path | None,
        rows: RowBuffer,
        *,
        owned: Sequence[str] = (),
        remarks: list[str] | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.rows, self.owned, self.pause = folder, rows, owned, pause
        self.remarks = [] if remarks is None else remarks
        self._files: dict[str, str] = {}
        self._finished: set[str] = set()
        self._damaged: set[Path] = set()
        if folder is not None:
            make_folder(folder)
            self._room = own_room(folder)

    def load_if_done(self, *name: str) -> Note | None:
        """Load a finished checkpoint: add its rows and return its note.

        Return None for one that is not finished.
        """
        if self.folder is None:
            return None
        path = self._path(*name)
        if path in self._damaged or not path.is_file():
            return None
        try:
            body = _body(path, self.rows.names)
        except Damaged as damage:
            self._damaged.add(path)
            self.remarks.append(f"{damage} What was kept in it is done again.")
            return None
        self.rows.extend(body["rows"])
        self._files |= body["files"]
        self._finished |= body["files"].keys()
        note: Note = body["note"]
        return note

    @contextmanager
    def save(self, *name: str) -> Iterator[Note]:
        """Make a checkpoint of the block: all that it records is kept when it has finished, else nothing.

        Yields the note, a mapping to fill, which ``load_if_done`` returns. Raises DiskError.
        """
        begun, files = self.rows.position(), self._files
        self._files = {}
        note: Note = {}
        yield note
        if self.folder is not None:
            path = self._path(*name)
            make_folder(path.parent)
            body = {"rows": self.rows.since(begun), "files": self._files, "note": note}
            written = write_sealed(path, body)
            self._damaged.discard(path)
            self.rows.truncate(begun)
            self.rows.extend(written["rows"])  # as a resumed run would read them: the same values
            self._room.remove_tree(path.with_name(path.name.removesuffix(".json")))  # its parts are in it now
        self._files = files | self._files
        self.pause()

    def register(self, *paths: Path) -> None:
        """Note files that belong to the checkpoint being made."""
        if self.folder is not None:
            made = {
                str(path.relative_to(self.folder)): self._room.digest(path) or digest(path) for path in paths
            }
            self._files |= made
            self._finished |= made.keys()

    def has(self, path: Path) -> bool:
        """Whether a file belongs to a checkpoint; without a folder every file does."""
        return self.folder is None or str(path.relative_to(self.folder)) in self._finished

    def verify(self) -> list[str]:
        """Verify the finished checkpoints and take them over; return a sentence for each that is damaged.

        One that cannot be read, or of which a file has changed, is no longer finished. Files in ``owned``
        folders that belong to no checkpoint are removed: the process that made them was interrupted. Files
        that no process of this folder made stay.
        """
        if self.folder is None:
            return []
        said: list[str] = []
        for path in sorted((self.folder / "journal").rglob("*.json")):
            if path.parent.name == "rounds":
                continue
            try:
                files = _body(path, self.rows.names)["files"]
                for name, expected in files.items():
                    check_digest(self.folder / name, expected)
                self._finished |= files.keys()
            except Damaged as damage:
                said.append(f"{damage} What was kept in '{path}' is done again.")
                if not self._room.remove(path):
                    self._damaged.add(path)
        for place in self.owned:
            for path in [path for folder in self.folder.glob(place) for path in folder.iterdir()]:
                if not self.has(path):
                    self._room.remove(path)
        return said

    def _path(self, *name: str) -> Path:
        assert self.folder is not None
        parts = [quote(word, safe="") for word in name]
        return self.folder.joinpath("journal", *parts[:-1], f"{parts[-1]}.json")


def _body(path: Path, lists: Sequence[str]) -> dict[str, Any]:
    """Read a checkpoint's file. Raises Damaged where it is not of this form, or names files elsewhere."""
    body = read_sealed(path)
    good = (
        isinstance(body, dict)
        and all(isinstance(body.get(key), dict) for key in ("rows", "files", "note"))
        and body["rows"].keys() <= set(lists)
        and all(isinstance(rows, list) for rows in body["rows"].values())
        and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in body["files"])
    )
    if not good:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")
    return dict(body)
