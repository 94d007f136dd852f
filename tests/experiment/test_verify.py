"""Every file of a finished run that is not what was written is noticed, and not printed without a word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from facts import refused
from typer.testing import CliRunner

from fedmerge import FedMergeError, run
from fedmerge.cli import app
from fedmerge.experiment.folder.query import query
from fedmerge.experiment.folder.verify import verify
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.models.pool import ModelPool
from fedmerge.storage import files, manifest
from fedmerge.storage.signature import check_signature, line_of, sign
from fedmerge.workflows import run as module
from fedmerge.workflows.rewrite import doubts

POOL = "seed-0/federation/pool"


class Died(BaseException):
    """A process that ends here."""


def brief(result, **_):
    return manifest.rewrite(result.folder / "report.html", f"{len(result.table)} rows")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the finished run of this file lies, once it is made."""
    return tmp_path_factory.mktemp("kept") / "whole"


@pytest.fixture
def small(experiment, monkeypatch):
    monkeypatch.setattr(module, "write_report", brief)
    return experiment | {"fusion": ["mean", "ensemble-logits"]}


@pytest.fixture
def finished(small, kept, tmp_path):
    """A copy of a finished run."""
    if not kept.exists():
        run(small, out=kept)
    return Path(shutil.copytree(kept, tmp_path / "run"))


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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


def better(folder: Path) -> None:
    """Every accuracy becomes 0.999."""
    table = pd.read_parquet(folder / "results.parquet")
    table.assign(accuracy=0.999).to_parquet(folder / "results.parquet", index=False)


def test_an_edited_accuracy_is_not_printed_without_a_word(small, finished, tmp_path):
    better(finished)
    result = run(small, resume=finished)
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


def test_a_manifest_that_is_gone_or_damaged_is_a_word(small, finished):
    (finished / "manifest.json").unlink()
    assert verify(finished).check.missing == ["manifest.json"]
    assert "missing: manifest.json" in run(small, resume=finished).remarks[1]
    better(finished)
    assert list(verify(finished).check.changed) == ["results.parquet"]  # by the list of what was made
    (finished / "made.jsonl").unlink()
    with refused(finished, "manifest.json"):
        verify(finished)
    assert "cannot be checked" in run(small, resume=finished).remarks[1]


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


def test_a_run_killed_between_its_last_two_writes_is_finished(small, tmp_path, monkeypatch):
    """The manifest is closed by what was listed when files were made, not by what lies there."""

    def die(*args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "close", die)
        with pytest.raises(Died):
            run(small, out=tmp_path / "run")
    assert not verify(tmp_path / "run").check.finished
    assert verify(tmp_path / "run").good
    better(tmp_path / "run")
    assert "changed: results.parquet" in run(small, resume=tmp_path / "run").remarks[1]
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


# signatures


@pytest.fixture
def keys(tmp_path):
    """A key as ssh-keygen would write it, and another's public key."""
    from cryptography.hazmat.primitives import serialization as s

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    (tmp_path / "server").write_bytes(text)
    (tmp_path / "server.pub").write_text(line_of(key.public_key()) + " server@here\n")
    (tmp_path / "other.pub").write_text(line_of(Ed25519PrivateKey.generate().public_key()) + "\n")
    return tmp_path


def test_a_signature_holds_until_something_changes(finished, keys):
    assert not verify(finished, keys / "server.pub").good  # it is not signed yet
    sign(finished, keys / "server")
    assert verify(finished, keys / "server.pub").good
    assert verify(finished).signature == "not checked"
    assert verify(finished, keys / "other.pub").signature == "other key"
    signed = (finished / "manifest.sig").read_bytes()
    for place in range(0, len(signed), 3):
        (finished / "manifest.sig").write_bytes(
            signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
        )
        assert not verify(finished, keys / "server.pub").good, place
    (finished / "manifest.sig").write_bytes(signed)
    better(finished)
    room = manifest.own_files.enter(finished)  # whoever edits the table also edits the manifest, and seals it
    kept = manifest.read_manifest(finished)
    edited = kept.files | {"results.parquet": files.digest(finished / "results.parquet")}
    kept.model_copy(update={"files": edited}).write(finished)
    assert room.made()
    assert verify(finished).check.good
    assert verify(finished, keys / "server.pub").signature == "bad"


def test_only_what_is_as_it_was_written_is_signed(finished, keys):
    better(finished)
    with refused("not as it was written"):
        sign(finished, keys / "server")
    assert check_signature(finished)[0] == "none"
    for wrong in ("server.pub", "nowhere"):
        with pytest.raises(FedMergeError):
            sign(finished, keys / wrong)
    with refused("public", "Ed25519", "key"):
        verify(finished, keys / "server")


def test_keys_of_openssh_s_own_program_sign(finished, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    told = CliRunner().invoke(app, ["sign", str(finished), "--key", str(tmp_path / "key")])
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(app, ["verify", str(finished), "--key", str(tmp_path / "key.pub")])
    assert told.exit_code == 0, told.output


# folders from somebody else, and links of one's own


def interrupted(small, folder, monkeypatch):
    """A run that ends after its hospitals' training."""

    def dies(*args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "evaluate", dies)
        with pytest.raises(Died):
            run(small, out=folder)


def models_of(folder: Path) -> dict[str, str]:
    pool = ModelPool(folder, create=False)
    pool.verify()
    return {name: pool.card(name).sha256 for name in pool}


@pytest.mark.parametrize("place", ["pool", "delta/fused", "delta/references", "journal/evaluation", "delta"])
def test_a_folder_from_somebody_else_touches_nothing_outside(small, tmp_path, monkeypatch, place):
    """What is linked is emptied by nobody, whatever the journal and the list of what was made say."""
    interrupted(small, tmp_path / "theirs", monkeypatch)
    folder = Path(shutil.copytree(tmp_path / "theirs", tmp_path / "run"))
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("alpha.safetensors", "mine.safetensors", "mine.json", "delta.json", "streams.safetensors"):
        (outside / name).write_text("mine")
    linked = folder / "seed-0" / "federation" / place
    shutil.rmtree(linked, ignore_errors=True)
    linked.parent.mkdir(exist_ok=True)
    linked.symlink_to(outside)
    with (folder / "made.jsonl").open("a") as file:
        for path in outside.iterdir():
            line = {"made": f"seed-0/federation/{place}/{path.name}", "sha256": "0" * 64}
            file.write(json.dumps(line) + "\n")
    with refused("link out to", outside):
        run(small, resume=folder)
    assert sorted(path.name for path in outside.iterdir()) == [
        "alpha.safetensors", "delta.json", "mine.json", "mine.safetensors", "streams.safetensors",
    ]  # fmt: skip
    assert all(path.read_text() == "mine" for path in outside.iterdir())


@pytest.mark.parametrize(
    "name", ["results.csv", "report.html", "run.json", "manifest.json", ".lock", "made.jsonl"]
)
def test_a_file_that_is_a_link_is_not_written_through(small, tmp_path, monkeypatch, name):
    interrupted(small, tmp_path / "theirs", monkeypatch)
    folder = Path(shutil.copytree(tmp_path / "theirs", tmp_path / "run"))
    (tmp_path / "thesis").write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"mine")
    before = (tmp_path / "thesis").read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "thesis")
    with refused(name, "link"):
        run(small, resume=folder)
    assert (tmp_path / "thesis").read_bytes() == before
    assert (folder / name).is_symlink()


def test_a_pool_on_a_bigger_disk_keeps_its_models_and_is_used(small, kept, finished, tmp_path, monkeypatch):
    """The owner moves the pool of a run that was interrupted, links it, and goes on."""
    folder, bigger = tmp_path / "mine", tmp_path / "bigger"
    interrupted(small, folder, monkeypatch)
    shutil.move(folder / POOL, bigger)
    (folder / POOL).symlink_to(bigger)
    (bigger / "notes").write_text("mine")
    whole = (bigger / "beta.safetensors").read_bytes()
    (bigger / "beta.safetensors").write_bytes(whole[:-1])  # damaged: it is made again, in its place
    run(small, resume=folder)
    assert models_of(bigger) == models_of(kept / POOL)
    assert (bigger / "notes").read_text() == "mine"
    found = verify(folder)
    assert found.good
    assert found.check.linked == [POOL]


def test_models_of_somebody_else_in_the_pool_are_not_used_and_stay(
    small, kept, finished, tmp_path, monkeypatch
):
    folder = tmp_path / "mine"
    interrupted(small, folder, monkeypatch)
    for ending in (".safetensors", ".json"):
        shutil.copy(folder / POOL / f"alpha{ending}", folder / POOL / f"mine{ending}")
    result = run(small, resume=folder)
    assert "alone:mine" not in set(result.table["method"])
    assert (folder / POOL / "mine.json").is_file()
    assert sorted(verify(folder).check.unknown) == [f"{POOL}/mine.json", f"{POOL}/mine.safetensors"]
    for ending in (".safetensors", ".json"):
        os.unlink(folder / POOL / f"mine{ending}")
    assert models_of(folder / POOL) == models_of(kept / POOL)
