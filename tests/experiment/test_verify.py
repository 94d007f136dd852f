"""Every file of a finished run that is not what was written is noticed, and not printed without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from facts import refused
from typer.testing import CliRunner

from fedmerge import run
from fedmerge.cli import app
from fedmerge.experiment.folder.query import query
from fedmerge.experiment.folder.verify import verify
from fedmerge.storage import manifest
from fedmerge.workflows.rewrite import doubts
from tests.experiment.finished_runs import POOL, all_files, better
from tests.interrupted import Died, dying_at


def test_a_finished_run_is_as_it_was_written(finished):
    found = verify(finished)
    assert found.good
    assert found.check.finished
    listed = set(manifest.read_manifest(finished).files)
    assert listed == set(all_files(finished)) - {"manifest.json", ".lock"}
    assert {"results.parquet", "results.csv", "provenance.json", "report.html", "run.json"} <= listed


def test_a_flipped_bit_in_any_file_is_noticed(finished):
    """Also one cut off, one taken away, one put in: file by file, over all that the run wrote."""
    unnoticed = []
    for name in all_files(finished):
        path = finished / name
        whole = path.read_bytes()
        for place in sorted({0, len(whole) // 2, len(whole) - 1}) if whole else ():
            for bit in (1, 32):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
                found = verify(finished)
                if found.good or name not in found.check.changed:
                    unnoticed.append((name, place, bit))
        for other in (whole[:-1], whole + b"\n"):
            path.write_bytes(other)
            if other != whole and name not in verify(finished).check.changed:
                unnoticed.append((name, len(other)))
        path.unlink()
        if name != ".lock" and name not in verify(finished).check.missing:
            unnoticed.append((name, "gone"))
        path.symlink_to("/etc/hostname")
        if verify(finished).good:
            unnoticed.append((name, "a link"))
        path.unlink()
        path.write_bytes(whole)
    assert not unnoticed
    assert verify(finished).good


@pytest.mark.parametrize("name", ["notes.txt", f"{POOL}/mine.json", "new/file", ".hidden", "manifest.sig"])
def test_a_file_that_was_put_in_is_noticed(finished, name):
    (finished / name).parent.mkdir(exist_ok=True)
    (finished / name).write_text("mine")
    found = verify(finished)
    assert not found.good
    assert name in found.check.unknown or found.signature == "bad"


def test_an_edited_accuracy_is_not_printed_without_a_word(every_kind, finished, tmp_path):
    better(finished)
    result = run(every_kind, resume=finished)
    assert (result.table["accuracy"] == 0.999).all()
    assert "changed: results.parquet" in result.remarks[1]
    said: list[str] = []
    assert len(query("SELECT * FROM results", finished, tell=said.append))
    assert len(said) == 1
    assert "changed: results.parquet" in said[0]
    told = CliRunner().invoke(app, ["results", "SELECT count(*) FROM results", "--runs", str(tmp_path)])
    assert "results.parquet" in told.stderr
    assert "results.parquet" in doubts(finished)[0]
    told = CliRunner().invoke(app, ["report", str(finished)])
    assert "warning:" in told.stderr
    page = (finished / "report.html").read_text()
    assert "do not trust what it says" in page  # it stands on the page, too
    assert list(verify(finished).check.changed) == ["results.parquet"]  # a new report blesses no table


def test_a_manifest_that_is_gone_or_damaged_is_a_word(every_kind, finished):
    (finished / "manifest.json").unlink()
    assert verify(finished).check.missing == ["manifest.json"]
    assert "missing: manifest.json" in run(every_kind, resume=finished).remarks[1]
    better(finished)
    assert list(verify(finished).check.changed) == ["results.parquet"]  # by the list of what was made
    (finished / "made.jsonl").unlink()
    with refused(finished, "manifest.json"):
        verify(finished)
    assert "cannot be checked" in run(every_kind, resume=finished).remarks[1]


def test_a_report_written_again_stands_in_the_manifest(finished, monkeypatch):
    before = verify(finished).check.checked
    text = "<html>another</html>"
    manifest.rewrite(finished / "report.html", text)
    assert verify(finished).good
    assert verify(finished).check.checked == before

    write = manifest.write_text
    for after in (False, True):  # killed before and after the page has its name

        def dying(path, text, after=after):
            if after:
                write(path, text)
            raise Died

        monkeypatch.setattr(manifest, "write_text", dying)
        with pytest.raises(Died):
            manifest.rewrite(finished / "report.html", f"one more, {after}")
        monkeypatch.setattr(manifest, "write_text", write)
        assert verify(finished).good
    manifest.rewrite(finished / "report.html", "whole")
    assert manifest.read_manifest(finished).pending == {}
    (finished / "report.html").write_text("one more, True")
    assert not verify(finished).good


def test_a_run_killed_between_its_last_two_writes_is_finished(every_kind, tmp_path):
    """The manifest is closed by what was listed when files were made, not by what lies there."""
    with dying_at(manifest, "close"):
        run(every_kind, out=tmp_path / "run")
    assert not verify(tmp_path / "run").check.finished
    assert verify(tmp_path / "run").good
    better(tmp_path / "run")
    assert "changed: results.parquet" in run(every_kind, resume=tmp_path / "run").remarks[1]
    assert verify(tmp_path / "run").check.finished


def test_a_folder_in_a_run_and_a_folder_of_models(finished, tmp_path):
    pool = finished / POOL
    assert verify(pool).check.checked == len(list(pool.iterdir()))
    assert verify(finished / "seed-0" / "federation" / "delta" / "fused").good
    copy = Path(shutil.copytree(pool, tmp_path / "models"))
    assert verify(copy).check.kind == "models"
    assert verify(copy).good
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            assert not verify(copy).good, (path, place)
        path.write_bytes(whole)
    assert verify(copy).good
    (copy / "other.safetensors").write_bytes(b"")
    assert verify(copy).check.unknown == ["other.safetensors"]
    with refused(tmp_path, "run", "study"):
        verify(tmp_path)


def test_the_command_says_what_each_file_is(finished):
    (finished / "notes").write_text("mine")
    (finished / "history.csv").unlink()
    better(finished)
    told = CliRunner().invoke(app, ["verify", str(finished), "--json"])
    assert told.exit_code == 1
    record = json.loads(told.stdout)
    assert (record["good"], record["unknown"], record["missing"]) == (False, ["notes"], ["history.csv"])
    assert list(record["changed"]) == ["results.parquet"]
    told = CliRunner().invoke(app, ["verify", str(finished)])
    assert "unknown: notes" in told.stderr
    assert "missing: history.csv" in told.stderr
