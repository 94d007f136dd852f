"""What `tune` keeps in a run's folder: made once, at the cost of a trial a kill; the run stays as it was."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from facts import refused

from fedmerge import run
from fedmerge.experiment.folder.verify import verify
from fedmerge.experiment.stages import tune as stage
from fedmerge.experiment.stages.tune import tuning_log
from fedmerge.storage.files import locked
from fedmerge.storage.signature import check_signature, sign
from fedmerge.workflows.reopened import opened
from fedmerge.workflows.tune import _tasks, tune_run
from tests.interrupted import Died

VALUES, SOURCES, STREAMS = [0.01, math.inf], 3, 2
TRIALS = len(VALUES) * SOURCES * STREAMS
OPTION = {"option": "coefficients.temperature", "values": VALUES}


@pytest.fixture
def folder(corners, tmp_path) -> Path:
    """A copy of a finished run that nobody has tuned."""
    nothing = shutil.ignore_patterns("tuning")
    return Path(shutil.copytree(corners.folder, tmp_path / "run", ignore=nothing))


@pytest.fixture
def attempts(monkeypatch) -> list[str]:
    """The held-out source of each trial that is made in this process from now on."""
    made: list[str] = []
    real = stage.attempt

    def counted(trial, *rest):
        made.append(trial.held_out)
        return real(trial, *rest)

    monkeypatch.setattr(stage, "attempt", counted)
    return made


def text(folder: Path, name: str = "manifest.json") -> bytes:
    return (folder / name).read_bytes()


def test_the_store_gives_what_the_run_s_own_tuning_gave(folder, corners, attempts):
    found = tune_run(folder, option=OPTION)
    log = corners.decisions.dropna(subset=["held_out"])
    assert [row["accuracy"] for row in tuning_log(found.tuning)] == log["accuracy"].tolist()
    assert [row["chosen"] for row in tuning_log(found.tuning)] == log["chosen"].tolist()
    assert (found.made, len(attempts), found.remarks) == (TRIALS, TRIALS, ())


def test_what_was_tried_is_not_tried_again(folder, attempts):
    first = tune_run(folder, option=OPTION)
    del attempts[:]
    again = tune_run(folder, option=OPTION)
    assert (again.made, attempts) == (0, [])
    assert again.tuning == first.tuning
    one = tune_run(folder, option=OPTION, stream="iid")
    assert one.made == 0  # its trials are among those of both streams
    more = tune_run(folder, option=OPTION | {"values": [*VALUES, 1.0]})
    assert more.made == len(attempts) == SOURCES * STREAMS
    assert {value: more.tuning.table[value] for value in VALUES} == first.tuning.table


def test_a_kill_costs_the_trial_in_flight(folder, monkeypatch):
    real, made = stage.attempt, []

    def dies(trial, *rest):
        if len(made) == 4:
            raise Died
        made.append(trial)
        return real(trial, *rest)

    monkeypatch.setattr(stage, "attempt", dies)
    with pytest.raises(Died):
        tune_run(folder, option=OPTION)
    assert verify(folder).good
    monkeypatch.setattr(stage, "attempt", real)
    found = tune_run(folder, option=OPTION)
    assert found.made == TRIALS - len(made)
    assert not list((folder / "tuning" / "jobs").glob(".*"))


def test_processes_give_the_same_bits(folder, corners, tmp_path):
    here = tune_run(folder, option=OPTION)
    other = shutil.copytree(corners.folder, tmp_path / "other", ignore=shutil.ignore_patterns("tuning"))
    beside = tune_run(other, option=OPTION, workers=2)
    assert beside.made == TRIALS
    assert beside.tuning == here.tuning
    names = [sorted(path.name for path in (each / "tuning" / "jobs").iterdir()) for each in (folder, other)]
    assert names[0] == names[1]
    assert len(names[0]) == TRIALS


def test_the_run_and_its_signature_stay_as_they_were(folder, tmp_path):
    before, checked = text(folder), verify(folder).check.checked
    sign(folder, _key(tmp_path))
    tune_run(folder, option=OPTION, stream="iid")
    found = verify(folder)
    assert text(folder) == before
    assert found.good
    assert found.check.apart == ["tuning"]
    assert found.check.checked == checked + len(json.loads(text(folder / "tuning"))["body"]["files"])
    assert check_signature(folder)[0] == "not checked"
    sign(folder, _key(tmp_path))
    assert run(resume=folder).table.equals(run(resume=folder).table)
    assert verify(folder).good
    assert verify(folder / "tuning").good


def test_a_changed_trial_is_noticed_and_made_anew(folder):
    first = tune_run(folder, option=OPTION)
    path = min((folder / "tuning" / "jobs").glob("*/job.json"))
    path.write_text(path.read_text().replace('"score": ', '"score": 1'))
    name = path.relative_to(folder).as_posix()
    assert list(verify(folder).check.changed) == [name]
    (folder / "tuning" / "more.txt").write_text("foreign")
    assert verify(folder).check.unknown == ["tuning/more.txt"]
    again = tune_run(folder, option=OPTION)
    assert again.made == 1
    assert again.tuning == first.tuning
    assert str(path) in " ".join(again.remarks)
    assert verify(folder).check.unknown == ["tuning/more.txt"]  # what is not ours is neither read nor deleted


def test_a_folder_without_a_manifest_of_its_own_is_foreign(folder):
    (folder / "tuning").mkdir()
    (folder / "tuning" / "job.json").write_text("{}")
    assert verify(folder).check.unknown == ["tuning/job.json"]


def test_where_nothing_can_be_written_the_answer_is_the_same(folder, corners, tmp_path):
    kept = tune_run(folder, option=OPTION)
    other = shutil.copytree(corners.folder, tmp_path / "other", ignore=shutil.ignore_patterns("tuning"))
    (other / "tuning").write_text("a file in the way")
    found = tune_run(other, option=OPTION)
    assert found.tuning == kept.tuning
    assert found.made == TRIALS
    assert len(found.remarks) == 1
    assert str(other / "tuning") in found.remarks[0]
    assert (other / "tuning").read_text() == "a file in the way"


def test_a_trial_that_fails_ends_the_work_and_is_tried_again(folder):
    bad = OPTION | {"values": [-1.0, *VALUES]}
    for _ in range(2):
        with refused("temperature", "-1.0"):
            tune_run(folder, option=bad)
    assert tune_run(folder, option=OPTION).made == TRIALS
    assert verify(folder).good


def test_two_at_once_are_refused(folder):
    tune_run(folder, option=OPTION, stream="iid")
    with locked(folder / "tuning", "in use"), refused("another process", "tuning"):
        tune_run(folder, option=OPTION)


def _work(folder):
    asked = {"run": str(folder), "target": None, "method": "entropy-adaptive", "option": OPTION}
    return opened(json.dumps(asked | {"stream": None, "seed": None, "device": "cpu"}))


def _names(work):
    trials = work.trials()
    return {trial: task.name for trial, task in zip(trials, _tasks(work, trials), strict=True)}


def test_a_trial_is_named_by_what_decides_it_and_by_nothing_else(folder):
    work = _work(folder)
    names = _names(work)
    assert len(set(names.values())) == TRIALS

    def changed(other):
        """The held-out sources of the trials that have another name."""
        return {trial.held_out for trial, name in _names(other).items() if names[trial] != name}

    def with_source(**news):
        return replace(work, sources=(replace(work.sources[0], **news), *work.sources[1:]))

    first, setup, everyone = work.sources[0], work.setup, {"alpha", "beta", "gamma"}
    assert changed(work) == set()
    assert changed(with_source(images=first.images + 1)) == {"alpha"}
    assert changed(with_source(labels=first.labels.flip(0))) == {"alpha"}
    assert changed(with_source(orders={name: order.flip(0) for name, order in first.orders.items()})) == {
        "alpha"
    }
    other = setup.experiment.evaluation.model_copy(update={"batch_size": 5})
    experiment = setup.experiment.model_copy(update={"evaluation": other})
    assert changed(replace(work, setup=replace(setup, experiment=experiment))) == everyone
    plan = setup.plan.model_copy(update={"batch_norm": "average"})
    assert changed(replace(work, setup=replace(setup, plan=plan))) == everyone
    with_threads = torch.get_num_threads()
    torch.set_num_threads(with_threads + 1)
    try:
        assert changed(work) == everyone
    finally:
        torch.set_num_threads(with_threads)
    card = setup.pool.card("alpha")
    setup.pool._cards["alpha"] = card.model_copy(update={"sha256": "0" * 64})
    assert changed(work) == everyone - {"alpha"}  # the held-out hospital's own model decides nothing


def _key(folder: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(32))
