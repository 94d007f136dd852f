"""The section ``federation:`` in an experiment: written as it was set, and refused before anything runs."""

import re
from pathlib import Path

import pytest
import yaml

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions
from fedmerge.federation.privacy.central import CentralPrivacy, epsilon
from fedmerge.study.federation_words import federation_in_words
from fedmerge.study.reading import read_experiment


@pytest.mark.parametrize(
    "section",
    [
        {"optimizer": {"method": "fedadam", "lr": 0.05}},
        {"participation": {"fraction": 0.5}, "personal": "norms"},
        {"aggregate": {"method": "kf", "images": 32}},
        {"privacy": {"clip": 1.0, "noise": 0.5}, "secure_aggregation": False},
    ],
)
def test_it_is_written_as_it_was_set_and_read_again(experiment, section):
    first, _ = read_experiment(experiment | {"federation": section})
    written = first.model_dump(mode="json")["federation"]
    again, _ = read_experiment(experiment | {"federation": written})
    assert again.federation == first.federation
    assert first.federation.written() == {key: value for key, value in section.items() if value is not False}


def test_the_page_s_section_and_fault_plan_are_read():
    page = (Path(__file__).parents[2] / "docs" / "federation.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (change,) = re.findall(r"--set '(federation=.*?)'", page, re.DOTALL)
    read, _ = read_experiment("quickstart", [change])
    assert [fault.kind for fault in read.federation.faults] == ["crash", "hang", "label-flip"]
    options = FederationOptions.model_validate(yaml.safe_load(section)["federation"])
    assert (options.quorum, options.attempts, options.aggregate.method) == (5, 3, "trimmed-mean")


def test_an_optimizer_may_be_named_alone(experiment):
    read, _ = read_experiment(experiment, ["federation.optimizer=fedyogi"])
    assert read.federation.optimizer.method == "fedyogi"
    with pytest.raises(FedMergeError, match="fedadam"):
        read_experiment(experiment, ["federation.optimizer=adam"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["federation.aggregate={method: kf, split: val}"], "every hospital, but 'alpha' has 12"),
        (["federation.participation={number: 4}"], "only 3 hospitals train"),
        (["federation.personal=norms", "model.options.norm=group"], "'small-cnn' has none"),
        (["federation.secure_aggregation=true"], "set training.fine_tune: none"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(experiment, tmp_path, changes, sentence):
    with pytest.raises(FedMergeError, match=sentence):
        run(experiment, changes=changes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], ""),
        (["training.rounds=0", "federation.max_norm=3"], ""),
        (["training.proximal=0.1"], "FedProx with mu = 0.1"),
        (["federation.aggregate={method: kf, images: 20}"], "updates are aggregated by kf, images 20"),
        (
            ["federation.faults=[{kind: nan}, {kind: crash}, {kind: nan, rounds: [1]}]", "training.rounds=0"],
            "hospitals misbehaved on purpose, as a fault plan says (nan and crash); what it did is among the "
            "failures",
        ),
        (
            ["federation.max_norm=3", "federation.deadline=5"],
            "updates longer than 3 were refused; training that took more than 5 s was late and left out",
        ),
        (["federation.optimizer=fedadam"], "the server steps by fedadam with learning rate 0.01"),
        (
            ["federation.participation.fraction=0.5", "federation.personal=head"],
            "50 % of the hospitals take part in a round, drawn by the seed; each hospital keeps its own "
            "head; the model that leaves has the mean of them",
        ),
    ],
)
def test_the_report_says_how_hospitals_trained_together(experiment, changes, words):
    assert federation_in_words(read_experiment(experiment, changes)[0]) == words


def test_the_report_says_what_privacy_cost(experiment):
    """Two rounds of noise 2 have mu = sqrt(2) / 2; epsilon by ``epsilon``, which has its own tests."""
    read, _ = read_experiment(experiment, ["federation.privacy={clip: 0.5, noise: 2}"])
    spent = epsilon(CentralPrivacy(clip=0.5, noise=2), 2)
    assert f"in all 2 rounds has spent epsilon = {spent:.3g} at delta = 1e-05" in federation_in_words(read)
