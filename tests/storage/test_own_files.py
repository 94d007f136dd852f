"""A folder from anybody makes nobody write or delete outside it, and what was not made by it stays."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from facts import refused

from fedmerge.storage import home, own_files
from fedmerge.storage.files import DiskError, Foreign, check_writable, locked, make_folder, write_text
from fedmerge.storage.own_files import enter, room_of
from fedmerge.storage.room import LINKED, Room


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's folder, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "thesis").write_text("mine")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that somebody else began: its list has no mark of this user's."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "made.jsonl").write_text(json.dumps({"id": "0" * 16, "mark": "0" * 64}) + "\n")
    enter(path, recording=True)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder that this user began here."""
    path = tmp_path / "own"
    path.mkdir()
    enter(path, recording=True)
    return path


def room(path: Path) -> Room:
    found = room_of(path)
    assert found is not None
    return found


def untouched(outside: Path) -> bool:
    return [p.name for p in outside.iterdir()] == ["thesis"] and (outside / "thesis").read_text() == "mine"


def chain(folder: Path, target: Path) -> None:
    (folder / "second").symlink_to(target)
    (folder / "pool").symlink_to("second")


LINKS = {
    "absolute": lambda folder, target: (folder / "pool").symlink_to(target),
    "relative": lambda folder, target: (folder / "pool").symlink_to(os.path.relpath(target, folder)),
    "chain": chain,
    "above": lambda folder, target: (folder / "pool").symlink_to(
        target.parent / "outside" / ".." / "outside"
    ),
}


@pytest.mark.parametrize("link", LINKS)
def test_nothing_is_written_or_deleted_through_a_folder_that_is_a_link(folder, outside, link):
    LINKS[link](folder, outside)
    for name in ("new", "thesis", "sub/new"):
        with refused("link out to", kind=Foreign):
            write_text(folder / "pool" / name, "theirs")
    with pytest.raises(Foreign):
        make_folder(folder / "pool" / "sub")
    with (folder / "made.jsonl").open("a") as file:  # it may say that all of it is its own
        for name in ("pool/thesis", "../outside/thesis", str(outside / "thesis")):
            file.write(json.dumps({"made": name, "sha256": "0" * 64}) + "\n")
        file.write(json.dumps({"made": "pool/gone", "sha256": ""}) + '\n{"removed": "pool/thesis"}\n')
        file.write('{"removed": "../outside/thesis"}\n')
    assert not room(folder).remove(folder / "pool" / "thesis")
    assert not room(folder).remove_tree(folder / "pool")
    room(folder).tidy()
    assert untouched(outside)
    assert (folder / "pool").is_symlink()


@pytest.mark.parametrize("target", ["thesis", "nowhere", "nowhere/at/all"])
def test_nothing_is_written_through_a_file_that_is_a_link(folder, outside, target):
    (folder / "results.csv").symlink_to(outside / target)
    with pytest.raises(DiskError):
        write_text(folder / "results.csv", "theirs")
    assert untouched(outside)
    assert (folder / "results.csv").is_symlink()


@pytest.mark.parametrize("name", [".lock", ".writable", "made.jsonl", ".results.csv.part"])
def test_files_that_only_help_follow_no_link_either(folder, outside, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "thesis")
    tries = (
        lambda: check_writable(folder),
        lambda: write_text(folder / "results.csv", "x"),
        lambda: locked(folder, "?").__enter__(),
    )
    for each in tries:
        try:
            each()
        except DiskError as error:
            assert name in str(error)  # noqa: PT017
    assert untouched(outside)


def test_a_hard_link_keeps_what_the_other_name_holds(folder, outside):
    for name in ("results.csv", ".lock"):
        os.link(outside / "thesis", folder / name)
    write_text(folder / "results.csv", "theirs")
    with locked(folder, "?"):
        pass
    assert room(folder).remove(folder / "results.csv")
    assert untouched(outside)


def test_a_list_that_is_a_hard_link_is_not_written(folder, outside):
    (folder / "made.jsonl").unlink()
    os.link(outside / "thesis", folder / "made.jsonl")
    with refused("name", "elsewhere", kind=Foreign):
        write_text(folder / "results.csv", "theirs")
    assert untouched(outside)


def test_what_was_not_made_here_stays_and_what_was_goes(own):
    for path in ("pool/a", "pool/b/c"):
        make_folder((own / path).parent)
        write_text(own / path, "ours")
    (own / "pool" / "notes").write_text("mine")
    (own / "pool" / "b" / "link").symlink_to("c")
    assert not room(own).remove(own / "pool" / "notes")
    assert not room(own).remove_tree(own / "pool")  # all is gone but what was not made
    left = sorted(str(path.relative_to(own)) for path in own.rglob("*") if not path.is_dir())
    assert left == ["made.jsonl", "pool/b/link", "pool/notes"]


def test_another_process_knows_what_was_made(own):
    write_text(own / "a", "ours")
    make_folder(own / "x")
    write_text(own / "x" / "b", "ours")
    room(own).move(own / "x", own / "y")
    again = Room(str(own))
    assert again.owns(own / "a")
    assert again.made().keys() == {"a", "y/b"}
    assert again.remove_tree(own / "y")
    room(own).remove(own / "a")
    assert room(own).made().keys() - {"y/b"} == set()


def test_a_torn_line_of_the_list_is_passed_over(own):
    write_text(own / "a", "ours")
    with (own / "made.jsonl").open("ab") as file:
        file.write(b'{"made": "b", "sha')
    write_text(own / "c", "ours")
    assert Room(str(own)).made().keys() == {"a", "c"}


def test_an_own_link_is_written_through_and_nothing_is_deleted_through_it(own, outside):
    """A pool on a bigger disk: it is used, and keeps what is there."""
    (own / "pool").symlink_to(outside)
    write_text(own / "pool" / "model", "ours")
    assert (outside / "model").read_text() == "ours"
    assert not room(own).remove(own / "pool" / "model")
    assert not room(own).remove_tree(own / "pool")
    assert sorted(path.name for path in outside.iterdir()) == ["model", "thesis"]


def test_a_copy_of_a_folder_is_not_begun_here(own, outside, tmp_path):
    """Whoever got the folder may have put a link in, and handed it back."""
    assert room(own).begun_here
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "made.jsonl").write_bytes((own / "made.jsonl").read_bytes())
    (copy / "pool").symlink_to(outside)
    enter(copy, recording=True)
    assert not room(copy).begun_here
    with refused(f"{LINKED}=", kind=Foreign):
        write_text(copy / "pool" / "thesis", "theirs")
    assert untouched(outside)


def test_another_user_s_mark_is_none(own, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not enter(own).begun_here
    assert home.mark("text") != ""
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/nowhere")
    assert home.mark("text") == ""
    assert not enter(own).begun_here


def test_a_place_that_is_named_may_be_written(folder, outside, monkeypatch):
    (folder / "pool").symlink_to(outside)
    monkeypatch.setenv(LINKED, f"/nowhere:{outside.parent}")
    write_text(folder / "pool" / "model", "ours")
    assert (outside / "model").exists()
    monkeypatch.setenv(LINKED, str(outside / "model"))  # a name that begins alike is another
    with pytest.raises(Foreign):
        write_text(folder / "pool" / "model2", "ours")


def test_what_is_no_file_is_not_written_to(folder):
    os.mkfifo(folder / "results.csv")
    (folder / "report.html").mkdir()
    for name in ("results.csv", "report.html"):
        with pytest.raises(DiskError):
            write_text(folder / name, "x")


def test_links_that_are_swapped_in_meanwhile_are_not_met(own, outside):
    """One thread puts a link and a folder under one name in turn, the other writes and deletes there."""
    (own / "real").mkdir()
    (own / "made.jsonl").write_text(json.dumps({"id": "0" * 16, "mark": ""}) + "\n")
    enter(own, recording=True)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in (lambda: os.symlink(outside, own / "new"), lambda: os.mkdir(own / "new")):
                make()
                os.rename(own / "pool", own / "old") if os.path.lexists(own / "pool") else None
                os.rename(own / "new", own / "pool")
                if (own / "old").is_symlink():
                    (own / "old").unlink()
                elif (own / "old").exists():
                    for name in os.listdir(own / "old"):
                        with_parts = own / "old" / name
                        with_parts.unlink() if with_parts.is_file() else None
                    try:
                        os.rmdir(own / "old")
                    except OSError:
                        os.rename(own / "old", own / f"left-{os.urandom(8).hex()}")

    thread = threading.Thread(target=swap)
    thread.start()
    met = 0
    try:
        for number in range(300):
            for work in (
                lambda: write_text(own / "pool" / "thesis", "theirs"),
                lambda: room(own).remove(own / "pool" / "thesis"),
                lambda: room(own).remove_tree(own / "pool"),
            ):
                try:
                    work()
                except (DiskError, OSError):
                    met += 1
            assert untouched(outside), number
    finally:
        stop.set()
        thread.join()
    assert met  # it was in the way


def test_paths_elsewhere_are_the_caller_s(tmp_path, folder):
    assert room_of(tmp_path / "elsewhere") is None
    assert room_of(folder / ".." / "elsewhere") is None
    assert room_of(folder / "a" / "b") is room_of(folder)
    assert own_files.own_room(folder / "a") is room_of(folder)
