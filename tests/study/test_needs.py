"""A fusion method without what it needs is refused while the configuration is read."""

import pytest

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.study.config import MethodConfig, read_experiment
from fedmerge.study.needs import needs_of

UNION, HOSPITALS = {"from": "union"}, {"from": "hospitals"}
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
    tuned = experiment | {"testtime": [{"method": "entropy-adaptive", "tune": "temperature"}]}
    read_experiment(tuned)
    with pytest.raises(FedMergeError, match="'temperature' cannot be tuned on 2 sources"):
        read_experiment(tuned | {"unseen": ["gamma", "delta"]})
