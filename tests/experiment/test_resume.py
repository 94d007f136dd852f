"""A run that died on a full disk, or has damaged files, goes on to the same bits; another is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from facts import refused
from same_runs import outcome, same

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder import run_manifest as begun
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.folder.state import state_of
from fedmerge.models import weights
from fedmerge.storage import files
from fedmerge.storage.files import locked, read_sealed, write_sealed
from fedmerge.workflows import run as module
from tests.experiment.interrupting import interrupt, not_resumed


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(every_kind, whole, tmp_path, monkeypatch):
    interrupt(every_kind, tmp_path / "run", monkeypatch, rounds=2)
    (path,) = (tmp_path / "run").rglob("0002-global.safetensors")
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    result = run(every_kind, resume=tmp_path / "run")
    (remark,) = result.remarks
    assert "0002-global.safetensors' is damaged" in remark
    assert "go on after round 1" in remark
    assert result.provenance["resumed"][0]["remarks"] == [remark]
    same(outcome(tmp_path / "run"), whole.outcome)


def test_a_damaged_beginning_is_made_anew(every_kind, whole, tmp_path, monkeypatch):
    interrupt(every_kind, tmp_path / "run", monkeypatch, rounds=1)
    (tmp_path / "run" / "run.json").write_text("{")
    result = run(every_kind, resume=tmp_path / "run")
    assert result.remarks == (f"'{tmp_path / 'run' / 'run.json'}' was damaged and is made anew.",)
    same(outcome(tmp_path / "run"), whole.outcome)


def test_the_weights_of_as_many_rounds_are_kept_as_the_configuration_says(every_kind, tmp_path):
    run(every_kind, changes=["training.rounds=4", "federation.keep=3", "testtime=[]"], out=tmp_path / "run")
    kept = [path.name for path in (tmp_path / "run/seed-0/federation/journal/rounds").glob("*.safetensors")]
    assert sorted(kept) == [f"000{number}-global.safetensors" for number in (2, 3, 4)]


def test_a_finished_run_is_returned_as_it_is(every_kind, whole, monkeypatch):
    def nothing(*args, **kwargs):
        raise AssertionError("it did something")

    monkeypatch.setattr(module, "run_seed", nothing)
    result = run(every_kind, resume=whole.folder)
    assert result.remarks == (f"the run in '{whole.folder}' is finished: nothing of it was done again.",)
    pd.testing.assert_frame_equal(
        result.table.drop(columns="seconds"), whole.outcome["tables"]["results"], check_dtype=False
    )


def test_a_run_without_tables_yet_says_how_it_goes_on(every_kind, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.Result, "save", lambda self: None)
        interrupt(every_kind, tmp_path / "run", monkeypatch, rounds=1)
    with refused("finished", "2", "--resume"):
        open_result(tmp_path / "run")


def test_a_run_in_use_is_a_sentence(every_kind, whole):
    with locked(whole.folder, "?"), refused("process", "work"):
        run(every_kind, resume=whole.folder)


def test_a_clock_set_back_changes_nothing(every_kind, whole, tmp_path, monkeypatch):
    interrupt(every_kind, tmp_path / "run", monkeypatch, rounds=1)
    monkeypatch.setattr(begun, "now", lambda: "2001-01-01T00:00:00+00:00")
    run(every_kind, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole.outcome)
    assert state_of(tmp_path / "run").state == "finished"


def test_another_configuration_is_refused(every_kind, whole):
    folder = whole.folder
    not_resumed(folder, ("training.rounds", "2", "3"), every_kind, changes=["training.rounds=3"])
    not_resumed(folder, ("seeds", "[0]", "[7]"), every_kind, seed=7)
    not_resumed(folder, ("device", "auto", "cpu"), every_kind, device="cpu")
    not_resumed(folder, ("--resume", "--out"), every_kind, out=folder)
    not_resumed(folder, ("arrays", "memory"))
    not_resumed(folder.parent, (folder.parent, "folder", "run"))


def test_a_changed_folder_or_other_images_are_refused(every_kind, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupt(every_kind, folder, monkeypatch, rounds=1)
    spec = every_kind["cohort"]
    source = spec.sites[1].source
    images = source.images.copy()
    images[0, 0, 0] ^= 1
    changed = spec.sites[1].model_copy(update={"source": type(source)(images, source.labels)})
    other = spec.model_copy(update={"sites": (spec.sites[0], changed, *spec.sites[2:])})
    not_resumed(folder, ("configuration", "cohort.sites"), every_kind | {"cohort": other})

    begun = read_sealed(folder / "run.json")
    write_sealed(folder / "run.json", begun | {"device": "cuda:0 (NVIDIA H100)"})
    not_resumed(folder, ("cuda:0 (NVIDIA H100)", "cpu"), every_kind)
    write_sealed(folder / "run.json", begun | {"data": begun["data"] | {"beta": "0" * 64}})
    not_resumed(folder, ("beta", "images"), every_kind)
    write_sealed(folder / "run.json", begun | {"stages": begun["stages"] | {"evaluate": 1}})
    not_resumed(folder, ("evaluate", begun["versions"]["fedmerge"], "numbers"), every_kind)
    write_sealed(folder / "run.json", begun | {"versions": begun["versions"] | {"torch": "1.0"}})
    assert "begun with torch 1.0: its numbers may differ" in run(every_kind, resume=folder).remarks[0]

    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["training"]["rounds"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    not_resumed(folder, ("config.yaml", "changed"), every_kind)


def test_a_full_disk_ends_with_a_sentence_and_what_is_finished_is_kept(
    every_kind, whole, tmp_path, monkeypatch
):
    """The disk is full from the fifth set of weights on, and the tables have no room either."""
    save, write, saved = weights.save_file, files.write_text, []

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def save_some(*args, **kwargs):
        saved.append(1)
        if len(saved) > 4:
            no_room()
        save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", save_some)
        patch.setattr(module, "write_report", no_room)
        with refused("disk", "fedmerge", "--resume"):
            run(every_kind, out=tmp_path / "run")
    assert files.write_text is write
    journal = tmp_path / "run" / "seed-0" / "federation" / "journal"
    assert sorted(path.name for path in journal.rglob("*.json")) == [
        "0001.json", "0002.json", "alpha.json", "beta.json", "rounds.json",
    ]  # fmt: skip
    run(every_kind, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), whole.outcome)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, with little room, where this user may have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_real_disk_that_fills_up(every_kind, whole, small_disk):
    """Room is taken away until the run dies of it, and given back a little at a time until it is finished."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    endings = []
    for room in (300_000, 250_000, 200_000, 150_000, 0):
        os.truncate(ballast, room)
        try:
            run(every_kind, resume=small_disk / "run") if endings else run(every_kind, out=small_disk / "run")
        except FedMergeError as error:
            endings.append(str(error))
    assert endings
    assert all("the disk is full" in ending for ending in endings)
    same(outcome(small_disk / "run"), whole.outcome)


def test_numbers_of_processes_that_died_are_not_in_the_seconds(every_kind, tmp_path, monkeypatch):
    interrupt(every_kind, tmp_path / "run", monkeypatch, rounds=1)
    begun = read_sealed(tmp_path / "run" / "run.json")
    result = run(every_kind, resume=tmp_path / "run")
    assert result.provenance["started"] == begun["started"]
    assert result.provenance["seconds"] >= begun["seconds"]
    assert np.isfinite(result.provenance["seconds"])
