"""Folders from somebody else and links of one's own: nothing outside is touched, nothing foreign used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from facts import refused

from fedmerge import run
from fedmerge.experiment.folder.verify import verify
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.models.pool import ModelPool
from tests.experiment.finished_runs import POOL
from tests.interrupted import dying_at


def interrupted(every_kind, folder):
    """A run that ends after its hospitals' training."""
    with dying_at(STAGES, "evaluate"):
        run(every_kind, out=folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where somebody else's run lies, once it is made."""
    return tmp_path_factory.mktemp("theirs") / "run"


@pytest.fixture
def theirs(every_kind, place, tmp_path):
    """A copy of somebody else's run, which ended after its hospitals' training."""
    if not place.exists():
        interrupted(every_kind, place)
    return Path(shutil.copytree(place, tmp_path / "run"))


def models_of(folder: Path) -> dict[str, str]:
    pool = ModelPool(folder, create=False)
    pool.verify()
    return {name: pool.card(name).sha256 for name in pool}


@pytest.mark.parametrize("folder", ["pool", "delta/fused", "delta/references", "journal/evaluation", "delta"])
def test_a_folder_from_somebody_else_touches_nothing_outside(every_kind, theirs, tmp_path, folder):
    """What is linked is emptied by nobody, whatever the journal and the list of what was made say."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("alpha.safetensors", "mine.safetensors", "mine.json", "delta.json", "streams.safetensors"):
        (outside / name).write_text("mine")
    linked = theirs / "seed-0" / "federation" / folder
    shutil.rmtree(linked, ignore_errors=True)
    linked.parent.mkdir(exist_ok=True)
    linked.symlink_to(outside)
    with (theirs / "made.jsonl").open("a") as file:
        for path in outside.iterdir():
            line = {"made": f"seed-0/federation/{folder}/{path.name}", "sha256": "0" * 64}
            file.write(json.dumps(line) + "\n")
    with refused("link out to", outside):
        run(every_kind, resume=theirs)
    assert sorted(path.name for path in outside.iterdir()) == [
        "alpha.safetensors", "delta.json", "mine.json", "mine.safetensors", "streams.safetensors",
    ]  # fmt: skip
    assert all(path.read_text() == "mine" for path in outside.iterdir())


@pytest.mark.parametrize(
    "name", ["results.csv", "report.html", "run.json", "manifest.json", ".lock", "made.jsonl"]
)
def test_a_file_that_is_a_link_is_not_written_through(every_kind, theirs, tmp_path, name):
    (tmp_path / "thesis").write_bytes((theirs / name).read_bytes() if (theirs / name).exists() else b"mine")
    before = (tmp_path / "thesis").read_bytes()
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(tmp_path / "thesis")
    with refused(name, "link"):
        run(every_kind, resume=theirs)
    assert (tmp_path / "thesis").read_bytes() == before
    assert (theirs / name).is_symlink()


def test_a_pool_on_a_bigger_disk_keeps_its_models_and_is_used(every_kind, whole, tmp_path):
    """The owner moves the pool of a run that was interrupted, links it, and goes on."""
    folder, bigger = tmp_path / "mine", tmp_path / "bigger"
    interrupted(every_kind, folder)
    shutil.move(folder / POOL, bigger)
    (folder / POOL).symlink_to(bigger)
    (bigger / "notes").write_text("mine")
    beta = (bigger / "beta.safetensors").read_bytes()
    (bigger / "beta.safetensors").write_bytes(beta[:-1])  # damaged: it is made again, in its place
    run(every_kind, resume=folder)
    assert models_of(bigger) == models_of(whole.folder / POOL)
    assert (bigger / "notes").read_text() == "mine"
    found = verify(folder)
    assert found.good
    assert found.check.linked == [POOL]


def test_models_of_somebody_else_in_the_pool_are_not_used_and_stay(every_kind, whole, tmp_path):
    folder = tmp_path / "mine"
    interrupted(every_kind, folder)
    for ending in (".safetensors", ".json"):
        shutil.copy(folder / POOL / f"alpha{ending}", folder / POOL / f"mine{ending}")
    result = run(every_kind, resume=folder)
    assert "alone:mine" not in set(result.table["method"])
    assert (folder / POOL / "mine.json").is_file()
    assert sorted(verify(folder).check.unknown) == [f"{POOL}/mine.json", f"{POOL}/mine.safetensors"]
    for ending in (".safetensors", ".json"):
        os.unlink(folder / POOL / f"mine{ending}")
    assert models_of(folder / POOL) == models_of(whole.folder / POOL)
