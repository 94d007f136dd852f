"""A file is the one before or the one after, never half; what the disk refuses is a sentence."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedmerge.storage import files
from fedmerge.storage.disk import INODES, SPACE, Shortage
from fedmerge.storage.files import Damaged, DiskError
from tests.facts import refused

FULL = "No space left on device"


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    files.write_text(tmp_path / "words", "grün")
    files.write_json(tmp_path / "data.json", {"a": [1, float("inf")]})
    assert (tmp_path / "words").read_bytes() == "grün".encode()
    assert json.loads((tmp_path / "data.json").read_text()) == {"a": [1, float("inf")]}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.json", "words"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), KeyboardInterrupt(), ValueError("no")])
def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "results"
    path.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise error

    with pytest.raises(DiskError if isinstance(error, OSError) else type(error)):
        files.write(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["results"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what happens: the bytes are brought to the disk, then the name, then the folder."""
    steps: list[str] = []
    sync, rename = files.sync, os.rename
    monkeypatch.setattr(
        files, "sync", lambda path: (steps.append(os.path.basename(os.path.realpath(path))), sync(path))
    )
    monkeypatch.setattr(os, "rename", lambda *a, **k: (steps.append("rename"), rename(*a, **k))[1])
    files.write_text(tmp_path / "file", "text")
    assert steps == ["file", "rename", tmp_path.name]


@pytest.mark.parametrize(
    ("error", "words", "full"),
    [
        (OSError(errno.ENOSPC, FULL), ("space", "left", "device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ("disk", "quota", "used"), True),
        (RuntimeError(f"Error: I/O error: {FULL} (os error 28)"), ("disk", "full"), True),
        (OSError(errno.EROFS, "Read-only file system"), ("Read-only", "system", "choose"), False),
        (RuntimeError("I/O error: Permission denied (os error 13)"), ("Permission", "denied"), False),
    ],
)
def test_what_the_disk_refuses_is_a_sentence(
    tmp_path: Path, error: Exception, words: str, full: bool
) -> None:
    with refused(*words, kind=DiskError) as caught, files.saying(tmp_path / "here"):
        raise error
    assert "here' cannot be written" in str(caught.value)
    assert (caught.value.shortage is not None) is files.full(error) is full


@pytest.mark.parametrize(
    ("inodes", "free", "lacks"), [(1000, 0, INODES), (1000, 2, INODES), (1000, 900, SPACE), (0, 0, SPACE)]
)
def test_a_disk_without_inodes_is_told_from_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inodes: int, free: int, lacks: Shortage
) -> None:
    """A disk that counts no inodes (btrfs) says 0 of 0; one that has none left says 0 of some."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=inodes, f_favail=free))
    with pytest.raises(DiskError) as caught, files.saying(tmp_path / "no" / "such" / "file"):
        raise OSError(errno.ENOSPC, FULL)
    assert caught.value.shortage is lacks
    assert lacks.what in str(caught.value)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.saying(tmp_path):
        raise KeyError("column")


def test_a_folder_that_is_not_there_or_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "no" / "name", tmp_path / "file" / "name", tmp_path):
        with refused("cannot be written", kind=DiskError):
            files.write_text(place, "text")
    with pytest.raises(DiskError):
        files.make_folder(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with refused("Permission", "denied", kind=DiskError):
        files.check_writable(tmp_path)
    tmp_path.chmod(0o700)


def test_a_link_stays_a_link_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    files.write_text(Path("/dev/null"), "gone")
    assert not Path("/dev/null").is_file()


def test_a_seal_tells_every_changed_byte(tmp_path: Path) -> None:
    """Whatever byte of the file is changed or cut off, it is no longer what was written."""
    path = tmp_path / "sealed.json"
    body = {"rows": [{"accuracy": 0.1 + 0.2, "auroc": float("nan"), "n": 3}], "words": "grün\n"}
    files.write_sealed(path, body)
    again = files.read_sealed(path)
    assert repr(again) == repr(body)
    assert json.loads(path.read_text())["body"]["words"] == "grün\n"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with refused("damaged", kind=Damaged):
            files.read_sealed(path)
        path.write_bytes(whole[:place])
        with pytest.raises(Damaged):
            files.read_sealed(path)


def test_numpy_s_numbers_are_sealed_as_numbers_and_nothing_else_is_guessed(tmp_path: Path) -> None:
    files.write_sealed(tmp_path / "a.json", [np.float64(0.1), np.int64(3), np.bool_(True)])
    assert files.read_sealed(tmp_path / "a.json") == [0.1, 3, True]
    with pytest.raises(TypeError, match="Path"):
        files.write_sealed(tmp_path / "a.json", [tmp_path])


def _hold(folder: Path, ready: multiprocessing.synchronize.Event) -> None:
    with files.locked(folder, "in use."):
        ready.set()
        multiprocessing.Event().wait(30)


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(30)
    with refused("use"), files.locked(tmp_path, "in use."):
        pass
    owner.kill()
    owner.join()
    with files.locked(tmp_path, "in use."):
        pass
