"""When the receipt says that nothing is left to do, and when it must not."""

import json

import pytest
from typer.testing import CliRunner

from fedmerge.cli import bench as command  # noqa: F401  (registers the command)
from fedmerge.cli.app import app
from fedmerge.workflows.bench import completion_cache as completion_cache
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.study import open_study


@pytest.fixture
def settled(place, tmp_path, study, monkeypatch):
    """A study of few jobs, finished, with its file and its folder."""
    import yaml

    monkeypatch.chdir(place)
    study["base"] = study["base"] | {"seeds": [0], "testtime": []}
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    bench(path, out=tmp_path / "study")
    return path, tmp_path / "study"


def holds(path, folder, changes=()):
    return completion_cache.valid(folder, completion_cache.request_of(path, changes)) is not None


def test_the_same_request_is_settled(settled):
    path, folder = settled
    found = completion_cache.valid(folder, completion_cache.request_of(path, []))
    assert found["failed"] == {}
    assert found["jobs"] == len(list((folder / "jobs").iterdir()))


def test_more_can_be_noted_of_a_settled_study(settled, tmp_path):
    path, folder = settled
    completion_cache.add(folder, {"answer": "yes"})
    assert completion_cache.valid(folder, completion_cache.request_of(path, []))["answer"] == "yes"
    completion_cache.add(tmp_path, {"answer": "yes"})  # nothing is begun where there is none
    assert not (tmp_path / "receipt.json").exists()


def test_the_command_line_says_the_answer_again_when_nothing_is_left_to_do(settled, monkeypatch):
    path, folder = settled
    first, second = (CliRunner().invoke(app, ["bench", str(path), "--out", str(folder)]) for _ in range(2))
    (said,) = [line for line in first.output.splitlines() if line.startswith("answer:  ")]
    assert open_study(folder).answer == said.removeprefix("answer:  ")
    assert second.output == first.output
    told = json.loads(CliRunner().invoke(app, ["bench", str(path), "--out", str(folder), "--json"]).output)
    assert told["answer"] in said


def test_another_request_is_not(settled, tmp_path, monkeypatch):
    path, folder = settled
    assert not holds(path, folder, ["set.seeds=[1]"])
    monkeypatch.chdir(tmp_path)  # a cohort named relative to here may be another file
    assert not holds(path, folder)


def test_a_changed_file_a_lost_job_or_other_rows_undo_it(settled, place):
    path, folder = settled
    cohort = place / "corners.yaml"
    before = cohort.read_text()
    cohort.write_text(before + "minimum: {samples: 5}\n")
    assert not holds(path, folder)
    cohort.write_text(before)
    assert holds(path, folder)
    path.write_text(path.read_text() + "title: another\n")
    assert not holds(path, folder)
    path.write_text(path.read_text().replace("title: another\n", ""))
    assert holds(path, folder)
    job = next((folder / "jobs").iterdir())
    job.rename(folder / "elsewhere")
    assert not holds(path, folder)
    (folder / "elsewhere").rename(job)
    (folder / "results.parquet").touch()
    assert not holds(path, folder)


def test_a_configuration_that_changed_while_jobs_ran_is_not_settled(place, tmp_path, study, monkeypatch):
    """The change comes after the last job and before the receipt."""
    import yaml

    monkeypatch.chdir(place)
    study["base"] = study["base"] | {"seeds": [0], "testtime": []}
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))

    def change(folder):
        path.write_text(path.read_text() + "title: another\n")
        return open_study(folder)

    monkeypatch.setattr("fedmerge.workflows.bench.bench.open_study", change)
    bench(path, out=tmp_path / "study")
    assert not holds(path, tmp_path / "study")


def test_images_written_anew_are_looked_at_again(settled, place):
    """Their content decides: as it is the same, nothing is done again, and the receipt counts again."""
    path, folder = settled
    images = place / "alpha.npz"
    images.write_bytes(images.read_bytes())
    assert not holds(path, folder)
    job = next((folder / "jobs").iterdir()) / "job.json"
    before = job.stat().st_mtime_ns
    bench(path, out=folder)
    assert job.stat().st_mtime_ns == before
    assert holds(path, folder)


def test_a_damaged_receipt_is_none(settled):
    path, folder = settled
    (folder / completion_cache.NAME).write_text("{")
    assert not holds(path, folder)
