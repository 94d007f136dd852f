import errno
import multiprocessing

import pytest
from facts import refused

from fedmerge.engine.store import Store, StoreStopped, said
from fedmerge.storage.files import make_folder, write_text


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
    make_folder(part / "pool")
    write_text(part / "pool" / "a.safetensors", "weights")
    write_text(part / "pool" / "a.json", "{}")
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
    with refused("at work", tmp_path), Store(tmp_path).locked():
        pass
    owner.kill()
    owner.join()
    with Store(tmp_path).locked():
        pass


def test_what_an_interrupted_job_left_is_swept_away(tmp_path):
    store = Store(tmp_path)
    write_text(store.part("abc") / "half", "")
    with store.locked():
        assert list(store.jobs.iterdir()) == []


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, FULL), RuntimeError(f"I/O error: {FULL} (os error 28)")]
)
def test_a_full_disk_is_a_sentence(tmp_path, error):
    with refused("disk", "full", "finished", kind=StoreStopped), said(tmp_path):
        raise error


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("folder", "cannot be written"):
        Store(tmp_path / "file" / "study")


def test_a_try_at_writing_leaves_nothing(tmp_path):
    assert Store(tmp_path).jobs.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs", "made.jsonl"]
