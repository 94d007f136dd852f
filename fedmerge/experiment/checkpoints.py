"""The checkpoints of a run: each finished part is on disk before the next begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedmerge.experiment.record import LISTS, Record
from fedmerge.files import Damaged, check_digest, digest, make_folder, read_sealed, write_sealed
from fedmerge.own_files import own_room

TRAINING, FINE_TUNE, FUSION, EVALUATION = "training", "fine-tune", "fusion", "evaluation"
"""Words in the names of checkpoints."""
MODELS = ("pool", "*/fused", "*/references")
"""Where a federation's models lie: only those of a finished checkpoint count."""

Note = dict[str, Any]


class Checkpoints:
    """The checkpoints of one federation, under ``folder/journal``, each a sealed file by its name.

    A checkpoint is named by words, ("evaluation", "coast", "mean"). One whose name begins with another's is
    part of that one, and is kept within it once that is finished. folder: None keeps nothing on disk.
    """

    def __init__(self, folder: Path | None, record: Record) -> None:
        self.folder = folder
        self.record = record
        self._files: dict[str, str] = {}
        self._finished: set[str] = set()
        self._damaged: set[Path] = set()
        if folder is not None:
            make_folder(folder)
            self._room = own_room(folder)

    def again(self, *name: str) -> Note | None:
        """Load a finished checkpoint: put its rows into the record and return its note.

        Return None for one that is not finished.
        """
        if self.folder is None:
            return None
        path = self._path(*name)
        if path in self._damaged or not path.is_file():
            return None
        try:
            body = _body(path)
        except Damaged as damage:
            self._damaged.add(path)
            self.record.remarks.append(f"{damage} What was kept in it is done again.")
            return None
        self.record.take(body["rows"])
        self._files |= body["files"]
        note: Note = body["note"]
        return note

    @contextmanager
    def piece(self, *name: str) -> Iterator[Note]:
        """Make a checkpoint of the block: all that it records is kept when it has finished, else nothing.

        Yields the note, a mapping to fill, which ``again`` returns. Raises DiskError.
        """
        begun, files = self.record.mark(), self._files
        self._files = {}
        note: Note = {}
        yield note
        if self.folder is not None:
            path = self._path(*name)
            make_folder(path.parent)
            body = {"rows": self.record.since(begun), "files": self._files, "note": note}
            written = write_sealed(path, body)
            self._damaged.discard(path)
            self.record.back_to(begun)
            self.record.take(written["rows"])  # as a resumed run would read them: the same values
            self._room.remove_tree(path.with_name(path.name.removesuffix(".json")))  # its parts are in it now
        self._files = files | self._files
        self.record.pause()

    def made(self, *paths: Path) -> None:
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

    def sweep(self) -> list[str]:
        """Take over the finished checkpoints; return a sentence for each that is damaged.

        One that cannot be read, or of which a file has changed, is no longer finished. Models of a run that
        belong to no checkpoint are removed: the process that made them was interrupted. Files that no run
        made stay.
        """
        if self.folder is None:
            return []
        said: list[str] = []
        for path in sorted((self.folder / "journal").rglob("*.json")):
            if path.parent.name == "rounds":
                continue
            try:
                files = _body(path)["files"]
                for name, expected in files.items():
                    check_digest(self.folder / name, expected)
                self._finished |= files.keys()
            except Damaged as damage:
                said.append(f"{damage} What was kept in '{path}' is done again.")
                if not self._room.remove(path):
                    self._damaged.add(path)
        for place in MODELS:
            for path in [path for folder in self.folder.glob(place) for path in folder.iterdir()]:
                if not self.has(path):
                    self._room.remove(path)
        return said

    def _path(self, *name: str) -> Path:
        assert self.folder is not None
        parts = [quote(word, safe="") for word in name]
        return self.folder.joinpath("journal", *parts[:-1], f"{parts[-1]}.json")


def _body(path: Path) -> dict[str, Any]:
    """Read a checkpoint's file. Raises Damaged where it is not of this form, or names files elsewhere."""
    body = read_sealed(path)
    good = (
        isinstance(body, dict)
        and all(isinstance(body.get(key), dict) for key in ("rows", "files", "note"))
        and body["rows"].keys() <= set(LISTS)
        and all(isinstance(rows, list) for rows in body["rows"].values())
        and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in body["files"])
    )
    if not good:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")
    return dict(body)
