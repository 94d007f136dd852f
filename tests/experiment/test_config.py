import pytest
import yaml

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.reading import find_config, read_experiment
from fedmerge.workflows.bench.variants import read_bench


@pytest.fixture
def file(tmp_path, experiment):
    """The tiny experiment as a YAML file on the embedded digits."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment | {"cohort": "digits-scanners"}))
    return path


def refused(*args, **kwargs) -> str:
    with pytest.raises(FedMergeError) as caught:
        read_experiment(*args, **kwargs)
    return str(caught.value)


def test_a_file_becomes_typed_values(file):
    experiment, cohort = read_experiment(file)
    assert cohort.name == "digits-scanners"
    assert [stream.name for stream in experiment.evaluation.streams] == ["iid", "dirichlet-0.5", "temporal"]
    assert [entry.label for entry in experiment.fusion][:2] == ["mean", "greedy"]
    assert experiment.model.options == {"width": 4}


def test_fine_tuning_inherits_what_it_does_not_set(file):
    training = read_experiment(file)[0].training
    assert training.fine_tune.batch_size == training.batch_size == 12
    assert (training.lr, training.fine_tune.lr) == (0.05, 0.02)
    assert training.local.lr == 0.05
    changed = read_experiment(file, ["training.inmerge.tau=0.5"])[0].training
    assert changed.inmerge.tau == changed.fine_tune.inmerge.tau == 0.5
    off = read_experiment(file, ["training.inmerge.tau=0.5", "training.fine_tune.inmerge=null"])[0].training
    assert off.inmerge is not None
    assert off.fine_tune.inmerge is None


def test_fine_tuning_as_usual_after_rounds_of_another_recipe_is_written_down(file):
    """A written configuration is inherited from again where it is read: nothing set apart may be left out."""
    changes = ["training.recipe=linear-probe", "training.fine_tune.recipe=finetune"]
    experiment, _ = read_experiment(file, changes)
    written = experiment.model_dump(mode="json") | {"cohort": "digits-scanners"}
    for training in (experiment.training, read_experiment(written)[0].training):
        assert (training.local.recipe, training.fine_tune.recipe) == ("linear-probe", "finetune")


def test_fedprox_is_of_the_rounds_and_not_inherited_by_fine_tuning(file):
    """Also when the written configuration is read again, as a run is repeated."""
    experiment, _ = read_experiment(file, ["training.proximal=0.1"])
    written = experiment.model_dump(mode="json") | {"cohort": "digits-scanners"}
    for training in (experiment.training, read_experiment(written)[0].training):
        assert (training.local.proximal, training.fine_tune.proximal) == (0.1, 0)


def test_set_seed_and_device_override(file):
    experiment, _ = read_experiment(
        file, ["training.rounds=7", "model.options.width=8"], seed=5, device="cpu"
    )
    assert (experiment.training.rounds, experiment.model.options["width"]) == (7, 8)
    assert (experiment.seeds, experiment.device) == ((5,), "cpu")


def test_set_can_open_a_short_form(experiment):
    changed, _ = read_experiment(experiment | {"model": "small-cnn"}, ["model.options.width=8"])
    assert (changed.model.name, changed.model.options) == ("small-cnn", {"width": 8})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.rouns=3", ["tiny.yaml", "training.rouns", "Did you mean 'rounds'"]),
        ("training.lr=-1", ["tiny.yaml", "training.lr", "-1"]),
        ("training.optimizer=sdg", ["tiny.yaml", "training.optimizer", "sdg", "sgd"]),
        ("training.fine_tune.lr=fast", ["tiny.yaml", "training.fine_tune.lr", "fast"]),
        ("training.augment=[filp]", ["tiny.yaml", "training.augment", "filp", "Did you mean 'flip'"]),
        ("fusion=[maen]", ["tiny.yaml", "fusion", "maen", "Did you mean 'mean'"]),
        ("fusion=[{method: greedy, acept: '>'}]", ["tiny.yaml", "acept", "Did you mean 'accept'"]),
        ("testtime=[entropy_adaptive]", ["tiny.yaml", "testtime", "Did you mean 'entropy-adaptive'"]),
        ("fusion=[mean, mean]", ["tiny.yaml", "two methods are labelled 'mean'", "label"]),
        ("evaluation.streams=[idd]", ["tiny.yaml", "streams", "idd", "Did you mean 'iid'"]),
        ("evaluation.streams=[{dirichlet: 0}]", ["tiny.yaml", "streams", "0"]),
        ("cohort=digits-scaners", ["digits-scaners", "Did you mean 'digits-scanners'"]),
        ("seeds=[1, 1]", ["tiny.yaml", "seeds", "twice"]),
        ("federation.on_failure=retyr", ["federation.on_failure", "retyr", "Did you mean 'retry'"]),
        ("federation.quorum=0", ["federation.quorum", "0"]),
        ("federation.retries=2", ["retries is set, but on_failure is skip: set on_failure to retry"]),
        ("federation.aggregate=maen", ["federation.aggregate", "Did you mean 'mean'"]),
        ("federation.aggregate={method: mean, trim: 1}", ["federation.aggregate", "has no option 'trim'"]),
        ("federation.aggregate=[mean]", ["federation.aggregate", "write an aggregator's name"]),
        (
            "federation.faults=[{kind: hang}]",
            ["federation", "fault injection with a hang needs a deadline"],
        ),
        ("federation.faults=[{kind: crush}]", ["federation.faults[0].kind", "Did you mean 'crash'"]),
        ("federation.faults=[{kind: slow}]", ["federation.faults[0]", "a slow hospital needs seconds"]),
        ("federation.faults=[{kind: nan, seconds: 3}]", ["a slow hospital needs seconds, and only that"]),
        ("federation.faults=[{kind: nan, scale: 3}]", ["scale is what a huge-norm update"]),
        ("federation.faults=[{kind: nan, probability: 0}]", ["federation.faults[0].probability", "0"]),
        ("federation.faults=[{kind: nan, rounds: [0]}]", ["federation.faults[0].rounds[0]", "0"]),
        ("federation.deadline=0", ["federation.deadline", "0"]),
        ("federation.max_norm=-1", ["federation.max_norm", "-1"]),
        ("batch_norm=mixtur", ["tiny.yaml", "batch_norm", "mixtur", "mixture"]),
        ("fusion=[{method: mean, after: repiar}]", ["fusion[0].after", "repiar", "Did you mean 'repair'"]),
        (
            "testtime=[{method: entropy-adaptive, tune: temprature}]",
            ["cannot tune 'temprature' without candidates"],
        ),
        (
            "testtime=[{method: dawin, temperature: 1, tune: temperature}]",
            ["'temperature' both set and tuned"],
        ),
        (
            "testtime=[{method: stream-adaptive, norms: {prior: 1},"
            " tune: {option: norms.prior, values: [2]}}]",
            ["'norms.prior' both set and tuned"],
        ),
        (
            "testtime=[{method: entropy-adaptive, tune: {option: coefficients.temperature, values: [hot]}}]",
            ["option 'coefficients.temperature'", "'hot'"],
        ),
        ("testtime=[{method: entropy-adaptive, tune: 3}]", ["tune takes the name of an option"]),
        ("fusion=[{method: mean, tune: temperature}]", ["no option 'tune'"]),
        ("testtime=[{method: tent, start: poled}]", ["testtime[0].start", "Did you mean 'pooled'"]),
        ("training={rounds: 0, proximal: 0.1}", ["proximal: 0.1", "set rounds to at least 1"]),
        ("training.start=independent", ["tiny.yaml", "start: independent needs rounds: 0 (given: 2)"]),
        ("fusion_data.from=server", ["tiny.yaml", "fusion_data", "needs a source"]),
        ("name=a/b", ["tiny.yaml", "name", "a/b"]),
        ("rounds", ["--set takes field=value", "'rounds'"]),
    ],
)
def test_every_fault_names_file_field_and_way_out(file, change, words):
    text = refused(file, [change])
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("change", "above", "name"),
    [
        ("cohort.label_skew=0.1", "cohort", "digits-four"),
        ("training.fine_tune.lr=0.1", "training.fine_tune", "none"),
    ],
)
def test_a_field_of_what_is_only_named_cannot_be_set(experiment, change, above, name):
    training = experiment["training"] | {"fine_tune": "none"}
    with pytest.raises(FedMergeError) as caught:
        read_experiment(experiment | {"cohort": "digits-four", "training": training}, [change])
    assert f"{above} is the name '{name}'" in str(caught.value)


def test_after_belongs_to_a_fused_network_and_is_written_where_it_is_set(file):
    methods = "fusion=[mean, {method: mean, label: mean-repair, after: repair}]"
    experiment, _ = read_experiment(file, [methods, "fusion_data={from: union}"])
    plain, repaired = experiment.fusion
    assert (plain.after, repaired.after, repaired.options) == ("none", "repair", {})
    assert repaired.model_dump() == {"method": "mean", "label": "mean-repair", "after": "repair"}
    assert plain.model_dump() == {"method": "mean", "label": "mean"}
    again, _ = read_experiment(experiment)
    assert again.fusion == experiment.fusion
    assert again.fusion_data == experiment.fusion_data
    assert "no option 'after'" in refused(file, ["testtime=[{method: entropy-adaptive, after: repair}]"])


def test_start_and_tune_are_written_where_they_are_set_and_named_in_the_label(file):
    tuned = "{method: tent, tune: {option: steps, values: [1, 2]}}"
    experiment, _ = read_experiment(file, [f"testtime=[tent, {{method: tent, start: pooled}}, {tuned}]"])
    assert [entry.label for entry in experiment.testtime] == ["tent", "tent-from-pooled", "tent-tuned"]
    assert [entry.choices for entry in experiment.testtime] == [
        {},
        {"start": "pooled"},
        {"tune": {"option": "steps", "values": [1, 2]}},
    ]
    assert read_experiment(experiment)[0].testtime == experiment.testtime


def test_a_start_of_one_s_own_goes_without_rounds(file):
    experiment, _ = read_experiment(file, ["training.rounds=0", "training.start=independent"])
    assert experiment.training.start == "independent"
    assert read_experiment(file)[0].training.start == "shared"


def test_a_missing_configuration_lists_the_shipped_ones():
    text = refused("quikstart")
    assert "Did you mean 'quickstart'" in text
    assert "pacs96" in text


def test_shipped_configurations_are_valid():
    for path in find_config("quickstart").parent.glob("*.yaml"):
        if path.stem.startswith("bench-"):
            config, variants = read_bench(path)
            assert config.name == path.stem
            assert all(variant.cohort.sites for variant in variants)
        else:
            experiment, cohort = read_experiment(path)
            assert experiment.name == path.stem
            assert cohort.sites
