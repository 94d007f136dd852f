"""The finished pieces of a run: what each has measured lies on the disk before the next begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedmerge.files import Damaged, check_digest, digest, make_folder, read_sealed, write_sealed
from fedmerge.study.record import Record

TRAINING, FINE_TUNE, FUSION, DEPLOYMENT = "training", "fine-tune", "fusion", "deployment"
"""Words that pieces are named by."""
MODELS = ("pool", "*/fused", "*/references")
"""Where a federation's models lie: only what a finished piece made may be there."""

Note = dict[str, Any]


class Pieces:
    """The finished pieces of one federation, under ``folder/journal``, each a sealed file by its name.

    A piece is named by words, ("deployment", "coast", "mean"); one may be part of another, whose name its own
    begins with, and is kept within it when that is finished. folder: None keeps nothing on the disk.
    """

    def __init__(self, folder: Path | None, record: Record) -> None:
        self.folder = folder
        self.record = record
        self._files: dict[str, str] = {}

    def again(self, *name: str) -> Note | None:
        """Put the rows of a piece that is finished already into the record; returns what was noted of it.

        None for one that is still to be done.
        """
        if self.folder is None or not self._path(*name).is_file():
            return None
        body = read_sealed(self._path(*name))
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
            self.record.back_to(begun)
            self.record.take(written["rows"])  # as they would be read, so that it makes no difference
            parts = path.with_name(path.name.removesuffix(".json"))
            shutil.rmtree(parts, ignore_errors=True)  # they are in it now
        self._files = files | self._files
        self.record.pause()

    def made(self, *paths: Path) -> None:
        """Say what files the piece that is being done has made."""
        if self.folder is not None:
            self._files |= {str(path.relative_to(self.folder)): digest(path) for path in paths}

    def sweep(self) -> list[str]:
        """Make the folder what its finished pieces say; returns in sentences what of them was damaged.

        A piece that cannot be read, or a file of which has changed, is no longer finished. Models that no
        finished piece made are removed: whoever made them was interrupted.
        """
        if self.folder is None:
            return []
        damaged: list[str] = []
        known: set[Path] = set()
        for path in sorted((self.folder / "journal").rglob("*.json")):
            if path.parent.name == "rounds":
                continue
            try:
                files = read_sealed(path)["files"]
                for name, expected in files.items():
                    check_digest(self.folder / name, expected)
                known |= {self.folder / name for name in files}
            except Damaged as damage:
                damaged.append(f"{damage} What was kept in '{path}' is done again.")
                path.unlink()
        for place in MODELS:
            for folder in self.folder.glob(place):
                for path in folder.iterdir():
                    if path not in known:
                        path.unlink()
        return damaged

    def _path(self, *name: str) -> Path:
        assert self.folder is not None
        parts = [quote(word, safe="") for word in name]
        return self.folder.joinpath("journal", *parts[:-1], f"{parts[-1]}.json")
