"""What can be known to fail is said before the first job; rows that failed are in the exit code."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.errors import FedMergeError
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.workflows.bench import preflight
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.plan import make_plan
from fedmerge.workflows.bench.variants import read_bench


@pytest.fixture
def own(place, tmp_path):
    """The hospitals' files and the study, to spoil."""
    return shutil.copytree(place, tmp_path / "place")


def said(folder, out, **fields) -> tuple[str, ...]:
    """What the study is refused with; nothing was written."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields, sort_keys=False))
    with pytest.raises(FedMergeError) as caught:
        bench(path, out=out)
    assert not out.exists()
    return caught.value.args


def test_every_file_that_is_not_there_is_named_before_the_first_job(own, tmp_path):
    """Two variants with two seeds each have the same fault: it is said once, with where else."""
    (own / "beta.npz").unlink()
    (own / "delta.npz").write_text("no npz")
    missing, damaged = said(own, tmp_path / "out")
    assert "with training slow, seed 0 and 3 more" in missing
    assert "beta.npz" in missing
    assert "delta.npz" in damaged


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"set": {"model.name": "tiny-vit", "model.options": {}, "model.options.patch": 3}},
            "8 px is not a multiple",
        ),
        ({"set": {"training.batch_size": 31}}, "30 training images, fewer than training.batch_size 31"),
        (
            {"set": {"fusion_data": {"from": "union", "sites": ["gamma"]}}},
            "'gamma' is no hospital that trains",
        ),
        ({"set": {"federation": {"quorum": 3}}}, "federation.quorum is 3"),
    ],
)
def test_what_an_experiment_cannot_be_is_said_before_the_first_job(own, tmp_path, fields, words):
    assert any(words in sentence for sentence in said(own, tmp_path / "out", **fields))


def test_the_fault_of_one_variant_names_it(own, tmp_path):
    axes = {"training": {"slow": {}, "fast": {"training.batch_size": 31}}}
    sentences = said(own, tmp_path / "out", axes=axes)
    assert all("with training fast, seed 0 and 1 more" in each for each in sentences)
    assert {"alpha", "beta"} == {
        name for name in ("alpha", "beta", "delta") if f"site '{name}'" in str(sentences)
    }


def test_only_what_is_still_to_do_is_checked(own):
    config, variants = read_bench(own / "study.yaml")
    plan = make_plan(config, variants)
    preflight.check(config, plan, plan.tasks)
    for name in ("alpha", "beta", "delta"):
        (own / f"{name}.npz").unlink()
    preflight.check(config, plan, ())
    seed_1 = {name for name, job in plan.tasks.items() if job.config["experiment"]["seeds"] == [1]}
    with pytest.raises(FedMergeError) as caught:
        preflight.check(config, plan, seed_1)
    assert len(caught.value.args) == 3
    assert all("seed 1 and 1 more" in each and "seed 0" not in each for each in caught.value.args)


def ended(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_rows_that_failed_are_in_the_exit_code_also_of_a_finished_study(own, tmp_path, monkeypatch):
    def diverge(*args, **kwargs):
        raise FedMergeError("training diverged.")

    command = ("bench", own / "study.yaml", "--out", tmp_path / "out", "--set", "set.seeds=[0]")
    command = (*command, "--set", "set.testtime=[]")
    whole = STAGES["fine-tune"]
    monkeypatch.setitem(STAGES, "fine-tune", diverge)
    for _ in range(2):  # the second time from the receipt
        code, out, _ = ended(*command, "--json")
        assert code == 1
        assert sum(json.loads(out)["failed"].values()) == 4  # alone and mean, of two variants
    code, out, err = ended(*command)
    assert code == 1
    assert "failed: 4" in out
    assert "training diverged" in err
    monkeypatch.setitem(STAGES, "fine-tune", whole)
    code, out, _ = ended(*command, "--retry", "--json")
    assert (code, json.loads(out)["failed"]) == (0, {})


def test_a_report_of_a_study_that_is_not_finished_names_the_command(own, tmp_path):
    out = tmp_path / "out"
    bench(own / "study.yaml", out=out, changes=["set.seeds=[0]", "set.testtime=[]"])
    assert json.loads(ended("report", out, "--json")[1])["unfinished"] is None
    next(folder for folder in (out / "jobs").iterdir() if (folder / "rows.json").is_file()).rename(
        tmp_path / "x"
    )
    code, _, err = ended("report", out)
    assert code == 0
    assert "1 of " in err
    assert f"fedmerge bench {out / 'study.yaml'} --out {out}" in err


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        ({"backend": "nonsense"}, ("nonsense",)),
        ({"backend": {"kind": "local", "address": "auto"}}, ("address",)),
        ({"backend": {"kind": "ray", "address": "nowhere"}}, ("nowhere",)),
        ({"backend": "ray", "workers": 2}, ("workers",)),
    ],
)
def test_a_wrong_backend_is_said_before_anything_is_written(own, tmp_path, given, fact):
    with refused(*fact):
        bench(own / "study.yaml", out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
