"""A digest of content, and a stamp that notices what a digest would."""

import os

import pytest

from fedmerge.storage.contents import digest_of, stamp_of


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"one")
    (folder / "b" / "c.png").write_bytes(b"two")
    return folder


def test_a_copy_has_the_same_digest_and_another_stamp(tree, tmp_path):
    other = tmp_path / "copy"
    (other / "b").mkdir(parents=True)
    for name in ("b/c.png", "a.png"):  # in another order
        (other / name).write_bytes((tree / name).read_bytes())
    assert digest_of(other) == digest_of(tree)
    assert stamp_of(other) != stamp_of(tree)
    assert stamp_of(tree) == stamp_of(tree)


@pytest.mark.parametrize("change", ["content", "name", "added", "removed"])
def test_every_change_gives_another_digest_and_stamp(tree, change):
    digest, stamp = digest_of(tree), stamp_of(tree)
    path = tree / "b" / "c.png"
    if change == "content":  # as long as before, with the time it had: only its change time tells
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(b"two"[::-1])
        os.utime(path, ns=times)
    elif change == "name":
        path.rename(tree / "b" / "d.png")
    elif change == "added":
        (tree / "b" / "d.png").write_bytes(b"")
    else:
        path.unlink()
    assert digest_of(tree) != digest
    assert stamp_of(tree) != stamp


def test_a_link_back_up_ends(tree):
    (tree / "b" / "up").symlink_to(tree)
    assert len(digest_of(tree)) == 64
