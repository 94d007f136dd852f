import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.workflows.bench.variants import read_bench


def written(place, study, name="given.yaml"):
    path = place / name
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def sentences(place, study, changes=()) -> str:
    with pytest.raises(FedMergeError) as caught:
        read_bench(written(place, study), changes)
    return str(caught.value)


def test_every_combination_of_the_levels_is_an_experiment(place, study):
    study["axes"]["training.lr"] = [0.1, 0.2]
    _, variants = read_bench(written(place, study))
    assert [v.levels for v in variants] == [
        {"training": kind, "training.lr": rate} for kind in ("slow", "fast") for rate in ("0.1", "0.2")
    ]
    assert [v.experiment.training.lr for v in variants] == [0.1, 0.2, 0.1, 0.2]
    assert [v.experiment.training.fine_tune.lr for v in variants] == [0.001, 0.001, 0.05, 0.05]
    assert all(v.cohort.name == "corners" for v in variants)


def test_changes_of_one_variant_do_not_reach_another(place, study):
    study["axes"] = {"model": {"narrow": {"model.options.width": 2}, "usual": {}}}
    study |= {"compare": "method", "reference": "mean"}
    _, variants = read_bench(written(place, study))
    assert [v.experiment.model.options for v in variants] == [{"width": 2}, {"width": 4}]


def test_combinations_can_be_left_out(place, study):
    study["axes"]["model.name"] = ["small-cnn", "resnet18"]
    study["set"] = {"model.options": {}}
    study["without"] = [{"training": "fast", "model.name": "resnet18"}]
    _, variants = read_bench(written(place, study))
    assert len(variants) == 3
    assert {"training": "fast", "model.name": "resnet18"} not in [v.levels for v in variants]


def test_the_base_may_be_a_shipped_experiment_with_changes(place, study):
    study |= {"base": "quickstart", "set": {"seeds": [3, 4], "training.rounds": 2}}
    config, (slow, _) = read_bench(written(place, study))
    assert slow.experiment.seeds == (3, 4)
    assert slow.experiment.training.rounds == 2
    assert config.base["name"] == "quickstart"


def test_set_changes_the_study(place, study):
    _, variants = read_bench(written(place, study), ["set.seeds=[7]", "axes.training.slow={}"])
    assert variants[0].experiment.seeds == (7,)
    assert variants[0].experiment.training.fine_tune.lr == 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("compare=trainig", ["given.yaml", "no axis 'trainig'", "Did you mean 'training'"]),
        ("reference=slwo", ["reference 'slwo'", "Did you mean 'slow'", "slow, fast"]),
        ("sweep=[model]", ["no axis 'model'"]),
        ("sweep=[training]", ["is compared"]),
        ("axes.site=[a]", ["axis 'site'", "column"]),
        ("axes.batch=[a]", ["axis 'batch'", "column"]),
        ("axes.low=[a]", ["axis 'low'", "column"]),
        ("axes.model={}", ["axis 'model' has no levels"]),
        ("axes.training.fast={training.lrr: 1}", ["training fast", "training.lrr", "Did you mean 'lr'"]),
        ("without=[{training: slow}, {training: fast}]", ["leaves no combination"]),
        ("metrik=auroc", ["metrik", "Did you mean 'metric'"]),
        ("set.cohort=nowhere", ["nowhere"]),
    ],
)
def test_faults_are_sentences(place, study, change, words):
    text = sentences(place, study, [change])
    assert all(word in text for word in words), text


def test_a_method_as_reference_must_be_one_of_the_methods(place, study):
    study |= {"compare": "method", "reference": "maen"}
    text = sentences(place, study)
    assert "'maen' is none of the methods. Did you mean 'mean'?" in text
    assert "pooled" in text


def test_an_experiment_is_no_study():
    with refused("no study", "base", "fedmerge run"):
        read_bench("quickstart")
