"""Where a run's files go. A folder that holds anything is never written into."""

from __future__ import annotations

from pathlib import Path

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import is_there
from fedmerge.storage.files import check_writable


def new_folder(name: str, out: str | Path | None) -> Path:
    """Make the folder of a run: ``out``, which must be new or empty, or the next free ``runs/NAME-001``."""
    if out is not None:
        folder = Path(out)
        if is_there(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise FedMergeError(f"'{folder}' is already there and not empty: give --out a new folder.")
        _make(folder, exist_ok=True)
        return folder
    number = 1
    while True:
        folder = Path("runs") / f"{name}-{number:03d}"
        try:
            _make(folder, exist_ok=False)
            return folder
        except FileExistsError:
            number += 1


def _make(folder: Path, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise FedMergeError(
            f"the folder '{short(folder)}' cannot be written ({error.strerror}): give another one with --out."
        ) from None
    check_writable(folder)
