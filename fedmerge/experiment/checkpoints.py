"""The finished pieces of a run: what each has measured lies on the disk before the next begins."""

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
"""Words that pieces are named by."""
MODELS = ("pool", "*/fused", "*/references")
"""Where a federation's models lie: only those that a finished piece made count."""

Note = dict[str, Any]


class Checkpoints:
    """The finished pieces of one federation, under ``folder/journal``, each a sealed file by its name.

    A piece is named by words, ("evaluation", "coast", "mean"); one may be part of another, whose name its own
    begins with, and is kept within it when that is finished. folder: None keeps nothing on the disk.
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
        """Put the rows of a piece that is finished already into the record; returns what was noted of it.

        None for one that is still to be done.
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
        """Do a piece inside the block: what it records is kept when it is finished, and all or nothing of it.

        Yields a mapping for what else is to be known of it. Raises DiskError.
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
            self.record.take(written["rows"])  # as they would be read, so that it makes no difference
            self._room.remove_tree(path.with_name(path.name.removesuffix(".json")))  # its parts are in it now
        self._files = files | self._files
        self.record.pause()

    def made(self, *paths: Path) -> None:
        """Say what files the piece that is being done has made."""
        if self.folder is not None:
            made = {
                str(path.relative_to(self.folder)): self._room.digest(path) or digest(path) for path in paths
            }
            self._files |= made
            self._finished |= made.keys()

    def has(self, path: Path) -> bool:
        """Whether a file is what a piece made; without a folder every one is."""
        return self.folder is None or str(path.relative_to(self.folder)) in self._finished

    def sweep(self) -> list[str]:
        """Take over what is finished; returns in sentences what of it was damaged.

        A piece that cannot be read, or a file of which has changed, is no longer finished. Models that were
        made here, but by no finished piece, are removed: whoever made them was interrupted. Whatever else
        lies there is somebody else's, and stays.
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
    """What a piece's file says. Raises Damaged where it is not of this form, or names files elsewhere."""
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
