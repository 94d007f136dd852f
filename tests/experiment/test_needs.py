"""A fusion method without what it needs is refused while the configuration is read."""

import pytest
from facts import refused

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import MethodConfig
from fedmerge.experiment.configuration.entries import read_method
from fedmerge.experiment.configuration.needs import needs_of
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.registry import Needs
from fedmerge.testtime import TESTTIME

UNION, HOSPITALS = {"from": "union"}, {"from": "hospitals"}
MASKED = {"fusion_data": HOSPITALS, "federation": {"secure_statistics": True}}
OWN = {"rounds": 0, "start": "independent", "batch_size": 12}


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("needs-images", {}, ["'needs-images' needs images to fuse with", "set fusion_data"]),
        ("needs-sums", {}, ["'needs-sums' needs sums over images", "{from: union, images: 400}"]),
        ("needs-labels", {}, ["'needs-labels' needs images to fuse with and their labels"]),
        ({"method": "mean", "after": "repair"}, {}, ["'mean' with after: repair needs sums over images"]),
        (
            "needs-images",
            {"fusion_data": HOSPITALS},
            ["needs images at the server", "do not leave the hospital", "set it to union or server"],
        ),
        (
            "needs-start",
            {"training": OWN},
            ["'needs-start' needs the weights from which all models were trained", "set it to shared"],
        ),
        ("regmean", MASKED, ["'regmean' asks each hospital for sums of its own model", "masks"]),
        (
            {"method": "kf", "attribution": "conductance"},
            MASKED,
            ["'kf' asks each hospital for sums of its own"],
        ),
        (
            "needs-sums",
            MASKED | {"fusion_data": HOSPITALS | {"sites": ["alpha", "beta"]}},
            ["at least 3 hospitals, but 2 give images"],
        ),
        (
            "needs-sums",
            MASKED | {"unseen": "each", "training": OWN, "testtime": []},
            ["each target is served by others"],
        ),
    ],
)
def test_what_is_missing_is_named_with_the_field_to_set(needy, experiment, method, changes, words, tmp_path):
    wrong = experiment | {"fusion": ["greedy", method]} | changes
    with pytest.raises(FedMergeError) as caught:
        run(wrong, out=tmp_path / "run")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("needs-images", {"fusion_data": UNION}),
        ("needs-labels", {"fusion_data": UNION}),
        ("needs-sums", {"fusion_data": HOSPITALS}),
        ("needs-sums", MASKED),
        ({"method": "mean", "after": "repair"}, {"fusion_data": HOSPITALS}),
        ("needs-start", {}),
        ("mean", {"training": OWN}),
    ],
)
def test_what_is_there_is_enough(needy, experiment, method, changes):
    read_experiment(experiment | {"fusion": [method]} | changes)


def test_needs_are_those_of_the_options_too(needy):
    plain = MethodConfig(method="needs-start", label="x")
    assert needs_of(plain) == Needs(shared_start=True)
    repaired = plain.model_copy(update={"after": "batch-norm"})
    assert needs_of(repaired) == Needs(shared_start=True, fusion_sums=True)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"method": "entropy-weighted", "start": "pooled"},
            ["needs the hospitals' individual models", "start: pooled"],
        ),
        (
            {"method": "tent", "start": "pooled", "tune": {"option": "steps", "values": [1, 2]}},
            ["'tent' cannot be tuned with start: pooled"],
        ),
    ],
)
def test_pooled_training_is_no_start_for_what_needs_the_sources(experiment, entry, words):
    with pytest.raises(FedMergeError) as caught:
        read_experiment(experiment | {"testtime": [entry]})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_three_sources_are_enough_to_tune_and_two_are_not(experiment):
    tuned = experiment | {"testtime": [{"method": "entropy-adaptive", "tune": "coefficients.temperature"}]}
    read_experiment(tuned)
    with refused("coefficients.temperature", "2", "sources"):
        read_experiment(tuned | {"unseen": ["gamma", "delta"]})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"method": "tent"}, ["'tent' cannot be calibrated", "choose a method that does", "divides"]),
        ({"method": "divides", "start": "pooled"}, ["'divides' cannot be calibrated with start: pooled"]),
        ({"method": "divides", "source_temperatures": [1, 2, 3]}, ["'source_temperatures' set or tuned"]),
        (
            {"method": "divides", "tune": {"option": "source_temperatures", "values": [[1, 2, 3]]}},
            ["'source_temperatures' set or tuned", "take one of the two out"],
        ),
    ],
)
def test_only_what_takes_a_temperature_for_each_source_is_calibrated(calibrated, experiment, entry, words):
    with pytest.raises(FedMergeError) as caught:
        read_experiment(experiment | {"testtime": [entry | {"calibrated": True}]})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_calibrated_is_a_choice_only_where_it_is_set(calibrated, experiment):
    plain, off, on, both = (
        read_method(TESTTIME, {"method": "divides"} | beside)
        for beside in (
            {},
            {"calibrated": False},
            {"calibrated": True},
            {"calibrated": True, "tune": "temperature"},
        )
    )
    assert plain == off
    assert (plain.choices, on.choices) == ({}, {"calibrated": True})
    assert (plain.label, on.label, both.label) == (
        "divides",
        "divides-calibrated",
        "divides-tuned-calibrated",
    )
    assert read_method(TESTTIME, on.model_dump()) == on
    with refused("calibrated"):
        read_experiment(experiment | {"testtime": [{"method": "divides", "calibrated": 1}]})
