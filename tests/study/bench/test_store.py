import errno
import multiprocessing
from pathlib import Path

import pytest

from fedmerge.errors import FedMergeError
from fedmerge.study.bench.store import Store, StudyStopped, said


def test_a_job_is_missing_until_its_folder_has_its_name(tmp_path):
    store = Store(tmp_path / "study")
    part = store.part("abc")
    (part / "rows.json").write_text("[1]")
    assert store.state("abc") == "missing"
    store.finish("abc", part, {"reason": ""}, "done")
    assert store.state("abc") == "done"
    assert store.states(["abc", "xyz"]) == {"abc": "done", "xyz": "missing"}
    assert store.read("abc", "rows.json") == [1]
    assert not part.exists()


def test_a_failed_job_can_be_done_again(tmp_path):
    store = Store(tmp_path)
    store.finish("abc", store.part("abc"), {"reason": "no data"}, "failed")
    assert (tmp_path / "jobs" / "abc" / "failed").read_text() == "no data\n"
    store.finish("abc", store.part("abc"), {"reason": ""}, "done")
    assert store.state("abc") == "done"
    assert not (tmp_path / "jobs" / "abc" / "failed").exists()


def test_dropping_models_leaves_cards_and_numbers(tmp_path):
    store = Store(tmp_path)
    part = store.part("abc")
    (part / "pool").mkdir()
    (part / "pool" / "a.safetensors").write_bytes(b"weights")
    (part / "pool" / "a.json").write_text("{}")
    store.finish("abc", part, {}, "done")
    store.drop_models("abc")
    assert store.state("abc") == "dropped"
    assert [file.name for file in (tmp_path / "jobs" / "abc" / "pool").iterdir()] == ["a.json"]


def _hold(folder, ready, release):
    with Store(folder).locked():
        ready.set()
        release.wait(30)


def test_two_at_one_folder_is_a_sentence_and_the_lock_dies_with_its_owner(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, ready, release))
    owner.start()
    assert ready.wait(30)
    with pytest.raises(FedMergeError, match="another bench is at work"), Store(tmp_path).locked():
        pass
    owner.kill()
    owner.join()
    with Store(tmp_path).locked():
        pass


def test_what_an_interrupted_job_left_is_swept_away(tmp_path):
    store = Store(tmp_path)
    (store.part("abc") / "half").write_text("")
    with store.locked():
        assert list(store.jobs.iterdir()) == []


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, FULL), RuntimeError(f"I/O error: {FULL} (os error 28)")]
)
def test_a_full_disk_is_a_sentence(tmp_path, error):
    with pytest.raises(StudyStopped, match=r"disk is full.*finished job is kept"), said(tmp_path):
        raise error


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedMergeError, match="cannot be written"):
        Store(tmp_path / "file" / "study")


def test_two_workers_that_open_the_folder_at_once_do_not_stop_each_other(tmp_path, monkeypatch):
    """Between one worker's try at writing and its tidying up, the other has tidied up the same file."""
    touch = Path.touch

    def touched_and_gone(self):
        touch(self)
        self.unlink()

    monkeypatch.setattr(Path, "touch", touched_and_gone)
    assert Store(tmp_path).jobs.is_dir()
    assert not list(tmp_path.glob(".writable"))
