"""A log in which a changed, missing or inserted line is noticed."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedmerge.storage.chained_log import BrokenChain, ChainedLog
from tests.facts import refused


def test_each_line_holds_the_hash_of_the_one_before_it(tmp_path):
    log = ChainedLog(tmp_path / "folder" / "log.jsonl")
    hashes = [log.append({"what": f"entry {n}", "ü": n}) for n in range(3)]
    entries = log.entries()
    assert [entry["what"] for entry in entries] == ["entry 0", "entry 1", "entry 2"]
    assert [entry["previous"] for entry in entries] == ["0" * 64, *hashes[:-1]]
    for entry in entries:
        body = {key: value for key, value in entry.items() if key != "hash"}
        assert entry["hash"] == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    assert log.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("length", [10, 5000, 20_000])
def test_the_last_line_is_found_however_long_it_is(tmp_path, length):
    log = ChainedLog(tmp_path / "log.jsonl")
    for n in range(3):
        log.append({"text": str(n) * length})
    assert [entry["n"] for entry in log.entries()] == [1, 2, 3]


def spoil(lines, how):
    if how == "changed":
        return [lines[0], lines[1].replace("entry 1", "entry 9"), lines[2]]
    if how == "taken out":
        return [lines[0], lines[2]]
    if how == "moved":
        return [lines[1], lines[0], lines[2]]
    if how == "twice":
        return [lines[0], lines[0], lines[1], lines[2]]
    return [lines[0], "[" * 100_000, lines[2]]


@pytest.mark.parametrize("how", ["changed", "taken out", "moved", "twice", "garbage"])
def test_a_log_that_was_tampered_with_is_refused(tmp_path, how):
    log = ChainedLog(tmp_path / "log.jsonl")
    for n in range(3):
        log.append({"what": f"entry {n}"})
    lines = log.path.read_text().splitlines()
    log.path.write_text("".join(f"{line}\n" for line in spoil(lines, how)))
    with pytest.raises(BrokenChain):
        log.entries()


def test_what_a_crash_left_of_a_line_is_taken_off_by_the_next(tmp_path):
    log = ChainedLog(tmp_path / "log.jsonl")
    log.append({"what": "a"})
    with log.path.open("ab") as file:
        file.write(b'{"n": 2, "at')
    assert [entry["what"] for entry in log.entries()] == ["a"]
    log.append({"what": "b"})
    assert [entry["what"] for entry in log.entries()] == ["a", "b"]


def test_several_at_once_make_one_chain(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ChainedLog(tmp_path / "log.jsonl").append({"what": n}), range(40)))
    assert sorted(entry["what"] for entry in ChainedLog(tmp_path / "log.jsonl").entries()) == list(range(40))


def test_the_logs_own_fields_are_not_an_entrys(tmp_path):
    with refused("hash"):
        ChainedLog(tmp_path / "log.jsonl").append({"hash": "x"})
