"""The manifest of a folder, ``manifest.json``: the SHA-256 of every file in it, as it was written.

    {"kind": "run", "open": false, "files": {"results.parquet": "…"}, "pending": {}}

It is sealed. While work goes on it is ``open``, and the list of made files (``own_files``) counts instead; at
the end it is closed with the digests of that list, not with those of the files on disk. A file that is
written anew later, such as a report, is ``pending`` until it is written: till then both digests count, so
that a kill at any moment does no damage.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

import fedmerge.storage.own_files as own_files
from fedmerge.errors import FedMergeError, short
from fedmerge.storage.files import Damaged, digest, locked, read_sealed, saying, write_sealed, write_text
from fedmerge.storage.made_list import MADE
from fedmerge.storage.own_files import LOCK, MANIFEST, RESERVED, SIGNATURE

Kind = Literal["run", "study", "tuning"]
TUNING: Final = "tuning"
"""The folder in a run's that holds what was tuned after it had ended; it has a manifest of its own."""
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The content of ``manifest.json``. files: SHA-256 by path. pending: of files being written anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    open: bool = False
    files: dict[str, Sha256] = {}
    pending: dict[str, Sha256] = {}

    def write(self, folder: Path) -> None:
        """Write the manifest into the folder, sealed. Raises DiskError."""
        write_sealed(folder / MANIFEST, self.model_dump())


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None where there is none. Raises Damaged."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"'{path}' is not the file that was written.")
    try:
        return Manifest.model_validate(read_sealed(path))
    except ValidationError:
        raise Damaged(f"'{path}' is not a manifest.") from None


def begin(folder: Path, kind: Kind) -> None:
    """Begin or resume work on a folder: from now on its made files are listed. Raises DiskError."""
    with saying(folder):
        own_files.enter(folder, recording=True).tidy()
    Manifest(kind=kind, open=True).write(folder)


def visit(folder: Path) -> None:
    """Enter a finished or open folder, perhaps to write a report there (``own_files.enter``)."""
    try:
        found = read_manifest(folder)
    except Damaged:
        found = None
    with saying(folder):
        own_files.enter(folder, recording=found is not None and found.open)


def close(folder: Path, kind: Kind) -> None:
    """Close the manifest with the list of made files, because the work is finished. Raises DiskError."""
    room = own_files.enter(folder)
    room.tidy()
    made = room.made()
    room.recording = False
    files = dict(sorted(made.items()))
    if (listed := Path(folder) / MADE).is_file():
        files[MADE] = digest(listed)
    Manifest(kind=kind, files=files).write(folder)


def finish(folder: Path, kind: Kind) -> None:
    """Close the manifest of a finished folder where a kill left it open. Raises DiskError."""
    try:
        found = read_manifest(folder)
    except Damaged:
        return
    if found is not None and found.open:
        close(folder, kind)


def rewrite(path: Path, text: str) -> None:
    """Write a file of a finished folder anew and record it in the manifest; else just write the file.

    Raises DiskError, and FedMergeError where another process is at work.
    """
    folder = path.parent
    try:
        found = read_manifest(folder)
    except Damaged:
        found = None
    if found is None or found.open:
        write_text(path, text)
        return
    with locked(folder, f"another process is at work in '{folder}': wait for it, or stop it."):
        added = {path.name: hashlib.sha256(text.encode()).hexdigest()}
        found.model_copy(update={"pending": found.pending | added}).write(folder)
        write_text(path, text)
        left = {name: value for name, value in found.pending.items() if name != path.name}
        found.model_copy(update={"files": found.files | added, "pending": left}).write(folder)


@dataclass
class Check:
    """The result of comparing a folder's files with its manifest.

    changed: the reason by path. missing, unknown: paths. linked: folders that are links now. apart: folders
    with a manifest of their own, by which their files were compared. checked: how many files. finished:
    whether the work on the folder is.
    """

    kind: Literal["run", "study", "tuning", "models"]
    finished: bool
    checked: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every file is as it was written, and there is no other."""
        return not (self.changed or self.missing or self.unknown)

    def sentences(self) -> list[str]:
        """Return a line for each file that is not as it was written."""
        return [
            *(f"changed: {path} ({why})" for path, why in self.changed.items()),
            *(f"missing: {path}" for path in self.missing),
            *(f"unknown: {path}" for path in self.unknown),
        ]


def check(folder: Path, below: str = "") -> Check:
    """Compare every file of a folder, or of its subfolder ``below``, with the manifest or the list.

    Raises FedMergeError where there is neither a manifest nor a list of made files.
    """
    manifest, expected, result = _expected(folder)
    within = f"{below}/" if below else ""
    for path in (path for path in expected if path.startswith(within)):
        _compare(folder, path, expected[path], result)
    if not below:
        _reserved(folder, manifest, result)
        _tuning(folder, result)
    room = own_files.enter(folder)
    for path, entry in _files(folder / below):
        name = f"{within}{path}"
        if name in expected or name in RESERVED or name in result.changed:
            continue
        if name.partition("/")[0] in result.apart:
            continue
        leads_to = any(each.startswith(f"{name}/") for each in expected)
        if stat.S_ISLNK(entry.st_mode) and leads_to:
            result.linked.append(name)
        elif result.finished or not room.is_part(name):
            result.unknown.append(name)
    return result


def warnings(
    folder: Path, names: Collection[str] | None = None, *, below: bool = True, but: str = ""
) -> list[str]:
    """Return a sentence on the files of a run or a study that are not as they were written.

    names: check these alone. below: check files in subfolders, too. but: leave this one out.
    """
    try:
        if names is None and below:
            result = check(folder)
        else:
            manifest, expected, result = _expected(folder)
            _reserved(folder, manifest, result)
            here = [path for path in expected if "/" not in path] if names is None else names
            for name in (name for name in here if name != but):
                if name in expected:
                    _compare(folder, name, expected[name], result)
                elif os.path.lexists(folder / name):
                    result.unknown.append(name)
    except FedMergeError as error:
        return [str(error)]
    found = result.sentences()
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        f"'{short(folder)}' is not as it was written ({'; '.join(found[:3])}{more}): do not trust what it "
        f"says. All of it: fedmerge verify {shlex.quote(str(folder))}"
    ]


def _expected(folder: Path) -> tuple[Manifest | None, dict[str, tuple[str, ...]], Check]:
    """Return the manifest, the expected digests (its own, or the list's while it is open), and a Check."""
    result, manifest = Check("run", finished=True), None
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            result.missing.append(MANIFEST)
    except Damaged:
        result.changed[MANIFEST] = "it is not what was written"
    if manifest is not None:
        result.kind, result.finished = manifest.kind, not manifest.open
    if manifest is not None and not manifest.open:
        listed: dict[str, tuple[str, ...]] = {path: (value,) for path, value in manifest.files.items()}
        for path, value in manifest.pending.items():
            listed[path] = (*listed.get(path, ()), value)
        return manifest, listed, result
    made = own_files.enter(folder).made() if folder.is_dir() else {}
    if manifest is None and not made:
        raise FedMergeError(
            f"nothing in '{short(folder)}' says what was written there ({MANIFEST} is missing or damaged), "
            "so it cannot be checked."
        )
    return manifest, {path: (value,) for path, value in made.items()}, result


def _compare(folder: Path, path: str, digests: tuple[str, ...], result: Check) -> None:
    where = folder / path
    result.checked += 1
    if not os.path.lexists(where):
        result.missing.append(path)
    elif where.is_symlink():
        result.changed[path] = "it is a link now"
    elif not where.is_file():
        result.changed[path] = "it is no file now"
    elif digest(where) not in digests:
        result.changed[path] = "its content is another"


def _reserved(folder: Path, manifest: Manifest | None, result: Check) -> None:
    """Check the files that are in no list: the lock is empty, and a signature has a closed manifest."""
    lock = folder / LOCK
    if os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file() or lock.stat().st_size):
        result.changed[LOCK] = "it should be an empty file"
    closed = manifest is not None and not manifest.open
    if closed and manifest is not None and MADE not in manifest.files and os.path.lexists(folder / MADE):
        result.unknown.append(MADE)
    if not closed and MANIFEST not in result.changed and os.path.lexists(folder / SIGNATURE):
        result.unknown.append(SIGNATURE)


def _tuning(folder: Path, result: Check) -> None:
    """Compare what was tuned in a run's folder with the manifest of its own, if it has one."""
    inner = folder / TUNING
    if inner.is_symlink() or not any((inner / name).is_file() for name in (MANIFEST, MADE)):
        return
    try:
        found = check(inner)
    except FedMergeError:
        return
    result.apart.append(TUNING)
    result.checked += found.checked
    result.changed |= {f"{TUNING}/{path}": why for path, why in found.changed.items()}
    for mine, its in ((result.missing, found.missing), (result.unknown, found.unknown)):
        mine += [f"{TUNING}/{path}" for path in its]


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything but folders, by path, without following links."""
    for above, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(above, name))]
        for name in sorted([*names, *links]):
            path = os.path.join(above, name)
            yield os.path.relpath(path, folder).replace(os.sep, "/"), os.lstat(path)
