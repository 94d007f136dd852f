"""The steps of a cell: what needs what, and how often hospitals are asked to come for them."""

import pandas as pd
import pytest

from fedmerge.experiment.cell import steps
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.kinds import FUSION
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.seed import run_seed
from fedmerge.federation.server.server import Server

COMMON = {"experiment": "tiny", "config_hash": "x"}


@pytest.fixture
def checked(experiment):
    """An experiment with an ensemble, a test-time method from pooled training, and two targets."""
    given = {"fusion": ["mean", "ensemble-logits"], "testtime": [{"method": "tent", "start": "pooled"}]}
    given["evaluation"] = experiment["evaluation"] | {"streams": ["iid"]}
    return read_experiment(experiment | given | {"unseen": ["gamma", "delta"]})[0]


@pytest.fixture
def servers(monkeypatch):
    """The servers that waited for hospitals."""
    made, init = [], Server.__init__

    def note(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Server, "__init__", note)
    return made


def test_each_step_comes_after_what_it_needs(checked, cohort):
    (federation,) = federations(cohort, checked)
    planned = list(steps(checked, federation, diagnosed=True, told=True))
    for number, step in enumerate(planned):
        assert set(step.needs) <= {before.name for before in planned[:number]}
    needs = {step.name: step.needs for step in planned}
    assert len(needs) == len(planned)
    own, pooled = "training/fine-tune", "training/pooled/delta"
    assert (needs["training/rounds"], needs[own]) == ((), ("training/rounds",))
    assert needs["evaluation/delta/tent-from-pooled"] == needs["evaluation/delta/pooled"] == (pooled,)
    assert needs["evaluation/delta/majority-class"] == needs["evaluation/delta/mean"] == (own,)


def test_hospitals_come_once_for_all_steps_that_ask_them(checked, cohort, tmp_path, servers):
    run_seed(checked, cohort, 0, tmp_path, Record(COMMON), "cpu")
    assert len(servers) == 1
    run_seed(checked, cohort, 0, tmp_path, Record(COMMON), "cpu")
    assert len(servers) == 1  # everything was done


class Ended(BaseException):
    """The process ends."""


@pytest.mark.parametrize(("rows", "again"), [(FUSION, 1), ("test-time", 0)])
def test_a_resumed_run_asks_hospitals_only_for_what_is_left(
    checked, cohort, tmp_path, servers, monkeypatch, rows, again
):
    """It ends before the first fusion is evaluated, or before the first test-time method is."""
    evaluate, record = STAGES["evaluate"], Record(COMMON)
    run_seed(checked, cohort, 0, tmp_path / "whole", record, "cpu")

    def ends(stage):
        if stage.step.rows == rows:
            raise Ended
        return evaluate(stage)

    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "evaluate", ends)
        with pytest.raises(Ended):
            run_seed(checked, cohort, 0, tmp_path / "run", Record(COMMON), "cpu")
    servers.clear()
    resumed = Record(COMMON)
    run_seed(checked, cohort, 0, tmp_path / "run", resumed, "cpu")
    assert len(servers) == again
    for name in ("results", "history", "failures"):
        whole, found = (
            each.frame(name, []).drop(columns="seconds", errors="ignore") for each in (record, resumed)
        )
        pd.testing.assert_frame_equal(whole, found)
