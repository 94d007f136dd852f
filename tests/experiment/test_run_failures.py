"""Failures in a run are on record, in the report, and in how it ends; the rest of it goes on."""

from dataclasses import replace

import pandas as pd
import pytest
from facts import refused
from typer import Exit

from fedmerge import ModelPool, run
from fedmerge.cli.commands import end
from fedmerge.errors import FedMergeError


def test_a_hospital_that_diverges_is_recorded_and_the_run_goes_on(experiment, tmp_path, monkeypatch):
    from fedmerge.federation.hospital import hospital
    from fedmerge.training import TrainingDiverged, fit

    def diverge_at_beta(*args, **kwargs):
        draws = kwargs["draws"]
        if (draws.site, draws.purpose) == ("beta", "round"):
            raise TrainingDiverged("training diverged at site 'beta': the loss is nan; lower training.lr.")
        return fit(*args, **kwargs)

    monkeypatch.setattr(hospital, "fit", diverge_at_beta)
    result = run(experiment, out=tmp_path / "run")
    assert set(result.failures["site"]) == {"beta"}
    assert list(result.failures["where"]) == ["round 1 (train)", "round 2 (train)"]
    assert "alone:beta" in set(result.table["method"])  # it fine-tuned the others' model
    report = (result.folder / "report.html").read_text()
    assert "lower training.lr" in report


def test_what_was_measured_before_an_error_is_saved(experiment, tmp_path, monkeypatch):
    from fedmerge.experiment.stages import seed as module

    def stop(*args):
        raise FedMergeError("the roof fell in.")

    monkeypatch.setitem(module.STAGES, "evaluate", stop)
    with refused("roof", "fell"):
        run(experiment, out=tmp_path / "run")
    assert len(ModelPool(tmp_path / "run/seed-0/federation/pool")) == 3
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 3 * (2 * 2 + 1)


def test_a_method_that_cannot_run_is_a_recorded_failure(experiment, tmp_path):
    fusion = ["mean", {"method": "mean", "label": "by-hand", "weights": [1.0, 2.0]}]
    result = run(experiment | {"fusion": fusion}, out=tmp_path / "run")
    assert list(result.failures["where"]) == ["by-hand"]
    assert "mean" in set(result.table["method"])
    assert result.failed == 1
    with pytest.raises(Exit) as ended:
        end(result)
    assert ended.value.exit_code == 1
    end(replace(result, failures=result.failures.iloc[:0]))


def test_a_hospital_that_was_left_out_of_a_round_is_no_failure_of_the_run(make_result):
    """Only methods give rows, so only theirs can be missing."""
    where = ["round 1 (train)", "fine-tune", "mean", "alone:north", "pooled", "entropy-adaptive", "elsewhere"]
    failures = pd.DataFrame({"seed": 0, "where": where, "site": "coast", "reason": "x"})
    result = make_result(failures=failures)
    assert result.failed == 4
    sites = tuple(replace(site, source="remote") for site in result.cohort.sites)
    elsewhere = replace(result, cohort=replace(result.cohort, sites=sites))
    assert elsewhere.failed == 3  # pooled training cannot be there


def test_a_fault_plan_is_in_the_failures_and_the_report_and_repeats(experiment, tmp_path):
    """Alpha crashes once in round 1 and is asked again; beta's labels are flipped in round 2; gamma's
    fine-tuning is not a number, so it has no model."""
    faults = [
        {"kind": "crash", "site": "alpha", "rounds": [1], "attempts": 1},
        {"kind": "label-flip", "site": "beta", "rounds": [2]},
        {"kind": "nan", "site": "gamma", "rounds": [3]},
    ]
    broken = experiment | {"federation": {"faults": faults, "on_failure": "retry"}}
    result = run(broken, out=tmp_path / "run")
    columns = ["where", "site", "attempt", "then", "kind", "injected"]
    assert result.failures[columns].to_numpy().tolist() == [
        ["round 1 (train)", "alpha", 1, "asked again", "error", "crash"],
        ["round 2 (train)", "beta", 1, "counted", "injected", "label-flip"],
        ["round 3 (fine-tune)", "gamma", 1, "asked again", "refused", "nan"],
        ["round 3 (fine-tune)", "gamma", 2, "left out", "refused", "nan"],
    ]
    assert ModelPool(result.folder / "seed-0/federation/pool").names == ["alpha", "beta"]
    page = (result.folder / "report.html").read_text()
    for words in (
        "1 thing failed and was left out; 2 failed attempts were made again; "
        "1 answer spoilt by fault injection was used",
        "attempt 1, asked again; by fault injection: crash",
        "with what fault injection did to it (label-flip)",
    ):
        assert words in page
    again = run(broken, out=tmp_path / "again")
    pd.testing.assert_frame_equal(again.failures, result.failures)
    pd.testing.assert_series_equal(again.table["accuracy"], result.table["accuracy"])
