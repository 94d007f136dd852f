"""The section ``federation:`` in an experiment: written as it was set, and refused before anything runs."""

import pytest

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.study.config import read_experiment


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
