"""Whole studies of seconds: each job once, whatever happens in between."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from facts import refused

from fedmerge.engine.executors.processes import Processes
from fedmerge.engine.store import Store
from fedmerge.experiment.stages import tasks as stages
from fedmerge.workflows.bench import bench as benches
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.study import open_study

CLOCKS = ["seconds", "training_seconds"]


@pytest.fixture(scope="session")
def whole(place, tmp_path_factory):
    """The study, run once without a break."""
    return bench(place / "study.yaml", out=tmp_path_factory.mktemp("whole") / "study")


def same_rows(one, other):
    pd.testing.assert_frame_equal(one.table.drop(columns=CLOCKS), other.table.drop(columns=CLOCKS))


def counted(monkeypatch):
    """Labels of the jobs that are really done from now on."""
    done: list[str] = []
    original = stages.do_stage

    def note(attempt):
        done.append(attempt.task.label)
        original(attempt)

    monkeypatch.setattr(stages, "do_stage", note)
    return done


def test_one_row_per_variant_seed_method_stream_and_shift(whole):
    """2 levels x 2 seeds x 6 methods x 2 streams x 3 looks; nothing failed, nothing twice."""
    table = whole.table
    key = ["training", "seed", "site", "method", "stream", "shift", "severity"]
    assert len(table) == 2 * 2 * 6 * 2 * 3
    assert not table.duplicated(key).any()
    assert set(table["status"]) == {"done"}
    methods = {"majority-class", "alone:alpha", "alone:beta", "pooled", "mean", "entropy-adaptive"}
    assert set(table["method"]) == methods
    assert (
        table[["accuracy", "brier", "validation", "training_seconds", "versions", "device"]]
        .notna()
        .all(axis=None)
    )
    assert (table["config_hash"] == table["job"]).all()


def test_a_fixed_network_s_row_is_that_of_the_models_on_disk(whole, place):
    """`mean` of one variant, computed again from the trained hospitals."""
    from fedmerge import ModelPool, merge
    from fedmerge.analysis import scores
    from fedmerge.data import build_cohort, read_cohort
    from fedmerge.models import predict

    row = whole.table.query("method == 'mean' and training == 'fast' and seed == 1 and severity == 0").iloc[0]
    (need,) = json.loads((whole.folder / "jobs" / row["job"] / "job.json").read_text())["needs"]
    pool = ModelPool(whole.folder / "jobs" / need / "pool")
    cohort = build_cohort(read_cohort(place / "corners.yaml"), 1)
    site = cohort["delta"].everything
    normalise = pool.card("alpha").normalisation
    fused = merge(pool, "mean").model
    assert row["accuracy"] == scores(predict(fused, site.images, normalise), site.labels)["accuracy"]
    right = sum(
        scores(predict(fused, cohort[s].val.images, normalise), cohort[s].val.labels)["accuracy"]
        * len(cohort[s].val)
        for s in pool
    )
    assert row["validation"] == pytest.approx(right / sum(len(cohort[s].val) for s in pool))


def test_running_again_does_nothing(whole, place, monkeypatch):
    done = counted(monkeypatch)
    before = (whole.folder / "results.parquet").read_bytes()
    same_rows(bench(place / "study.yaml", out=whole.folder), whole)
    assert done == []
    assert (whole.folder / "results.parquet").read_bytes() == before


def test_a_table_left_behind_by_a_killed_bench_is_written_anew(whole, place, tmp_path, monkeypatch):
    """Every job is done, but the table is from before the last ones; so it is when labels alone change."""
    shutil.copytree(whole.folder, tmp_path / "study")
    whole.table.iloc[:7].to_parquet(tmp_path / "study" / "results.parquet", index=False)
    done = counted(monkeypatch)
    same_rows(bench(place / "study.yaml", out=tmp_path / "study"), whole)
    changes = ["axes.training={calm: {training.fine_tune.lr: 0.001}, fast: {training.fine_tune.lr: 0.05}}"]
    changes.append("reference=calm")
    renamed = bench(place / "study.yaml", changes=changes, out=tmp_path / "study", extend=True)
    assert set(renamed.table["training"]) == {"calm", "fast"}
    assert done == []


def test_only_what_is_missing_is_done(whole, place, tmp_path, monkeypatch):
    """A third seed and a new method: the trained hospitals of the first seeds are used as they are."""
    shutil.copytree(whole.folder, tmp_path / "study")
    done = counted(monkeypatch)
    changes = ["set.seeds=[0, 1, 2]", "set.fusion=[mean, greedy]"]
    with refused("begun", "configuration", "--extend"):
        bench(place / "study.yaml", changes=changes, out=tmp_path / "study")
    study = bench(place / "study.yaml", changes=changes, out=tmp_path / "study", extend=True)
    assert not [label for label in done if "seed 2" not in label and "greedy" not in label]
    assert sum("greedy" in label for label in done) == 2 * 3
    old = study.table[(study.table["seed"] < 2) & (study.table["method"] != "greedy")]
    pd.testing.assert_frame_equal(
        old.drop(columns=CLOCKS).reset_index(drop=True), whole.table.drop(columns=CLOCKS), check_dtype=False
    )


def test_two_processes_give_the_same_rows(whole, place, tmp_path):
    same_rows(bench(place / "study.yaml", out=tmp_path / "study", workers=2), whole)


def test_workers_in_a_script_without_a_guard_do_not_run_it_again(place, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import fedmerge as fm; print('once')\n"
        f"fm.bench({str(place / 'study.yaml')!r}, out={str(tmp_path / 'study')!r}, workers=2,"
        " changes=['set.seeds=[0]', 'set.testtime=[]'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr
    assert set(open_study(tmp_path / "study").table["status"]) == {"done"}


def test_a_worker_that_is_killed_is_a_failed_job(place, tmp_path, study, monkeypatch):
    monkeypatch.chdir(place)
    crew = Processes(1)
    submit = crew.submit

    def kill_one(assignment):
        future = submit(assignment)
        if assignment.task.label == "fast, seed 1: mean at delta":
            (process,) = crew._busy
            for child in list(process._processes.values()):
                child.kill()
        return future

    monkeypatch.setattr(crew, "submit", kill_one)
    table = bench(study, out=tmp_path / "study", workers=crew).table
    failed = table[table["status"] == "failed"]
    assert list(failed["method"]) == ["mean"]
    assert "fast, seed 1: mean at delta" in failed["reason"].iloc[0]
    assert "was killed" in failed["reason"].iloc[0]


def test_models_are_dropped_when_nothing_needs_them(whole, place, tmp_path):
    study = bench(place / "study.yaml", changes=["keep_models=false"], out=tmp_path / "study")
    same_rows(study, whole)
    assert not list(study.folder.rglob("*.safetensors"))
    again = bench(
        place / "study.yaml",
        changes=["keep_models=false", "set.fusion=[mean, greedy]"],
        out=study.folder,
        extend=True,
    )
    assert "greedy" in set(again.done["method"])


def test_a_full_disk_stops_the_study_and_keeps_what_is_done(whole, place, tmp_path, monkeypatch):
    original = Store.finish

    def fill_up(self, job, part, record, marker):
        if record["label"] == "fast, seed 0: mean at delta":
            raise OSError(28, "No space left on device")
        original(self, job, part, record, marker)

    from fedmerge.engine.store import said

    def said_finish(self, *args):
        with said(self.folder):
            fill_up(self, *args)

    monkeypatch.setattr(Store, "finish", said_finish)
    with refused("disk", "full", "finished job"):
        bench(place / "study.yaml", out=tmp_path / "study")
    assert len(open_study(tmp_path / "study").done) > 0
    monkeypatch.setattr(Store, "finish", original)
    same_rows(bench(place / "study.yaml", out=tmp_path / "study"), whole)


def test_a_changed_cohort_file_is_noticed(whole, place, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "study")
    shutil.copytree(place, tmp_path / "place")
    cohort = tmp_path / "place" / "corners.yaml"
    cohort.write_text(cohort.read_text() + "minimum: {samples: 5}\n")
    with refused("cohort file", "--extend"):
        bench(tmp_path / "place" / "study.yaml", out=tmp_path / "study")


def test_replaced_images_are_noticed_and_only_what_reads_them_is_done_again(
    whole, place, tmp_path, monkeypatch
):
    """One image of one hospital is another: every job reads it, and the old ones stay for the old images."""
    shutil.copytree(place, tmp_path / "place")
    arrays = dict(np.load(tmp_path / "place" / "beta.npz"))
    arrays["test_images"][0] = 255 - arrays["test_images"][0]
    shutil.copytree(whole.folder, tmp_path / "study")
    study = tmp_path / "place" / "study.yaml"
    changes = ["set.seeds=[0]", "set.testtime=[]"]
    done = counted(monkeypatch)
    bench(study, changes=changes, out=tmp_path / "study", extend=True)
    assert done == []
    np.savez(tmp_path / "place" / "beta.npz", **arrays)
    with refused("other images", "--extend"):
        bench(study, changes=changes, out=tmp_path / "study")
    assert set(bench(study, changes=changes, out=tmp_path / "study", extend=True).table["status"]) == {"done"}
    assert len(done) == len(set(done)) > 0
    done.clear()
    np.savez(tmp_path / "place" / "beta.npz", **dict(np.load(place / "beta.npz")))  # as it was
    bench(study, changes=changes, out=tmp_path / "study", extend=True)
    assert done == []


def _run(place, out):
    benches.bench(place / "study.yaml", out=out)
    os._exit(0)


@pytest.mark.parametrize("killings", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_rows(whole, place, tmp_path, killings):
    """A study that is done before its next moment comes is compared, and another one is begun."""
    context = multiprocessing.get_context("fork")
    moments = random.Random(0)
    studies, kills = [tmp_path / "study-0"], 0
    while kills < killings:
        process = context.Process(target=_run, args=(place, studies[-1]))
        process.start()
        process.join(moments.uniform(0.05, 0.6))
        if process.is_alive():
            process.kill()
            kills += 1
        else:
            studies.append(tmp_path / f"study-{len(studies)}")
        process.join()
    for study in studies:
        same_rows(bench(place / "study.yaml", out=study), whole)


def test_who_watches_sees_every_job_go(place, tmp_path):
    seen = []
    bench(
        place / "study.yaml",
        out=tmp_path / "study",
        watch=lambda event: seen.append(
            (event.progress.done, event.progress.left, tuple(event.progress.running))
        ),
    )
    jobs = len(list((tmp_path / "study" / "jobs").glob("*")))
    assert seen[-1] == (jobs, 0, ())
    assert len({running for *_, running in seen if running}) == jobs
