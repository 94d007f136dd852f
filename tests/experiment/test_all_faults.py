"""Everything that is wrong with a configuration is said at once, each thing with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.checks import CHECKS, PLAIN
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.workflows.bench.variants import read_bench

COHORT = """\
source: digits
sites:
  - {name: a}
  - {name: b}
  - {name: c}
  - {name: d, unseen: true}
"""
GOOD = """\
name: good
cohort: cohort.yaml
model: small-cnn
training: {rounds: 1, fine_tune: {lr: 0.1}}
fusion: [mean]
evaluation: {streams: [iid]}
"""


@pytest.fixture
def files(tmp_path):
    """Write an experiment and its cohort, and return the sentences that refuse them."""

    def refused(experiment: str, cohort: str = COHORT, changes: tuple[str, ...] = ()) -> list[str]:
        (tmp_path / "run.yaml").write_text(experiment)
        (tmp_path / "cohort.yaml").write_text(cohort)
        with pytest.raises(FedMergeError) as caught:
            read_experiment(tmp_path / "run.yaml", changes)
        return [str(each).replace(f"{tmp_path}/", "") for each in caught.value.args]

    return refused


def test_the_file_that_the_others_differ_from_is_good(tmp_path):
    (tmp_path / "run.yaml").write_text(GOOD)
    (tmp_path / "cohort.yaml").write_text(COHORT)
    assert [site.name for site in read_experiment(tmp_path / "run.yaml")[1].sites] == ["a", "b", "c", "d"]


def test_faults_of_every_kind_and_of_both_files_are_said_at_once(files):
    experiment = """\
name: bad
cohort: cohort.yaml
model: smal-cnn
seeds: [0, 0]
modle: small-cnn
training: {rounds: 1, lr: 010, fine_tune: {lr: 0.1}}
training: {rounds: 1, fine_tune: {lr: 0.1}}
fusion: [mean, mean, {method: greedy, acept: '>'}, hf]
testtime: [{method: entropy-adaptive, start: pooled}]
evaluation: {streams: [iid], shifts: [nois]}
federation: {faults: [{kind: crash, site: nobody}]}
"""
    cohort = COHORT.replace("name: b", "name: a").replace("name: c", "name: no") + "lable_skew: 1\n"
    said = files(experiment, cohort, ("training.rounds=[1", "unseen=[x]"))
    wanted = [
        ("run.yaml, line 6", "010"),
        ("run.yaml, line 7", "lines 6 and 7"),
        ("--set training.rounds", "broken YAML"),
        ("run.yaml: unknown field 'modle'", "Did you mean 'model'"),
        ("run.yaml: field 'seeds'", "'0' is listed twice"),
        ("run.yaml: field 'fusion[2]'", "no option 'acept'"),
        ("run.yaml: field 'evaluation.shifts'", "'nois'"),
        ("cohort.yaml: field 'sites[2].name'", "in quotes"),
        ("cohort.yaml: field 'sites'", "two sites are named 'a'"),
        ("cohort.yaml: unknown field 'lable_skew'", "label_skew"),
        ("run.yaml: two methods are labelled 'mean'", "label"),
        ("run.yaml: unknown model 'smal-cnn'", "small-cnn"),
        ("run.yaml: fusion method 'hf' needs", "set fusion_data"),
        ("run.yaml: test-time method 'entropy-adaptive' needs", "start: pooled"),
    ]
    for where, words in wanted:
        assert sum(each.startswith(where) and words in each for each in said) == 1, (where, said)
    assert len(said) == len(wanted)


def test_a_fault_hides_only_the_checks_that_read_it(files):
    """The fault plan reads the cohort: it is checked although training is wrong, and not if the cohort is."""
    plan = GOOD + "federation: {faults: [{kind: crash, site: [nobody, b]}]}\n"
    wrong = plan.replace("rounds: 1", "rounds: -1")
    assert [each.split(":")[1].strip() for each in files(wrong)] == [
        "field 'training.rounds' should be greater than or equal to 0 (given",
        "unknown site in federation.faults",
    ]
    (sentence,) = files(plan, COHORT.replace("name: a", "name: no"))
    assert sentence.startswith("cohort.yaml: field 'sites[0].name'")


def test_nothing_is_said_of_what_a_validator_filled_in(files):
    """Fine-tuning inherits the rounds' settings, and their faults are not its own."""
    (one,) = files(GOOD.replace("rounds: 1", "rounds: 1, inmerge: {alfa: 1}"))
    assert "unknown field 'training.inmerge.alfa'. Did you mean 'alpha'" in one
    (one,) = files(GOOD.replace("rounds: 1", "rounds: 1, lr: -1"))
    assert "field 'training.lr' should be greater than 0" in one
    plain = GOOD.replace(", fine_tune: {lr: 0.1}", "")
    (one,) = files(plain.replace("rounds: 1", "rounds: 1, optimizer: sgdd"))
    assert "field 'training.optimizer' cannot be 'sgdd'. Did you mean 'sgd'?" in one
    three = files(plain.replace("rounds: 1", "rounds: 1, optimizer: sgdd, lr: -1, inmerge: {alfa: 1}"))
    assert [each.split("'")[1] for each in three] == [
        "training.optimizer",
        "training.lr",
        "training.inmerge.alfa",
    ]


@pytest.mark.parametrize(
    ("change", "twice"),
    [
        ("unseen=[d, d]", "d"),
        ("seeds=[3, 4, 3]", "3"),
        ("evaluation.streams=[iid, temporal, iid]", "iid"),
        ("evaluation.streams=[dirichlet: 0.05, dirichlet: 0.05000000001]", "dirichlet-0.05"),  # one name
        ("evaluation.shifts=[noise, blur, noise]", "noise"),
        ("evaluation.severities=[1, 5, 1]", "1"),
        ("fusion_data={from: union, sites: [a, a]}", "a"),
        ("federation.faults=[{kind: crash, site: [a, b, a]}]", "a"),
        ("federation.faults=[{kind: crash, rounds: [1, 1]}]", "1"),
        ("testtime=[{method: tent, tune: {option: steps, values: [1, 2, 1]}}]", "1"),
        ("cohort={name: x, source: digits, classes: [p, q, p], sites: [{name: a}]}", "p"),
        ("cohort={name: x, source: digits, sites: [{name: a, classes: [1, 2, 1]}]}", "1"),
    ],
)
def test_a_list_that_is_a_set_has_nothing_twice(files, change, twice):
    (sentence,) = files(GOOD, changes=(change,))
    assert "twice" in sentence
    assert twice in sentence


def test_order_matters_in_what_is_a_sequence(tmp_path):
    (tmp_path / "run.yaml").write_text(GOOD)
    (tmp_path / "cohort.yaml").write_text(COHORT)
    experiment, _ = read_experiment(tmp_path / "run.yaml", ["training.augment=[flip, flip]"])
    assert experiment.training.augment == ("flip", "flip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name=no", "field 'name' should be text, but YAML reads false (no, off)"),
        ("name=on", "true (yes, on)"),
        ("name=1", "the number 1"),
        ("name=~", "nothing (null)"),
        ("unseen=[yes]", "field 'unseen[0]' should be text"),
        ("unseen=[1]", "field 'unseen[0]' should be text"),
        ("cohort={name: x, source: digits, sites: [{name: off}]}", "field 'cohort.sites[0].name'"),
        (
            "cohort={name: x, source: digits, classes: [1, 2], sites: [{name: a}]}",
            "field 'cohort.classes[0]'",
        ),
        ("cohort={name: x, source: digits, sites: [{name: a, classes: [no]}]}", "sites[0].classes[0]"),
    ],
)
def test_a_name_that_yaml_reads_as_something_else_goes_in_quotes(files, change, words):
    said = files(GOOD, changes=(change,))
    assert words in said[0]
    assert "in quotes" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        "seeds=[yes]",
        "training.epochs=on",
        "training.lr=yes",
        "evaluation.batch_size=true",
        "evaluation.severities=[true]",
        "evaluation.streams=[dirichlet: yes]",
        "model={name: small-cnn, options: {width: yes}}",
        "fusion=[{method: task-arithmetic, scale: yes}]",
        "federation.deadline=yes",
        "cohort={name: x, source: digits, sites: [{name: a, share: yes}]}",
    ],
)
def test_yes_is_no_number(files, change):
    said = files(GOOD, changes=(change,))
    assert "number" in said[0]


def test_booleans_are_what_they_were(tmp_path):
    (tmp_path / "run.yaml").write_text(GOOD)
    (tmp_path / "cohort.yaml").write_text(COHORT.replace("true", "yes"))
    experiment, cohort = read_experiment(tmp_path / "run.yaml", ["training.nesterov=on"])
    assert experiment.training.nesterov is True
    assert [site.unseen for site in cohort.sites] == [False, False, False, True]


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_is_a_whole_number_of_63_bits(files, seed):
    (sentence,) = files(GOOD, changes=(f"seeds=[{seed}]",))
    assert str(seed) in sentence
    with pytest.raises(FedMergeError, match=r"seeds\[0\]"):
        read_experiment({**yaml.safe_load(GOOD), "cohort": yaml.safe_load(COHORT) | {"name": "x"}}, seed=seed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"name={'n' * 101}", "field 'name'"),
        (f"fusion=[{{method: mean, label: {'n' * 101}}}]", "field 'fusion[0].label'"),
        (
            f"cohort={{name: x, source: digits, sites: [{{name: {'n' * 5000}}}]}}",
            "field 'cohort.sites[0].name'",
        ),
    ],
)
def test_a_name_of_files_is_short(files, change, words):
    (sentence,) = files(GOOD, changes=(change,))
    assert words in sentence
    assert "at most 100" in sentence
    assert len(sentence) < 400


def study(**fields: Any) -> dict[str, Any]:
    base = yaml.safe_load(GOOD) | {"cohort": yaml.safe_load(COHORT) | {"name": "x"}}
    return {"name": "s", "base": base, "axes": {"lr": {"low": {"training.lr": 0.1}, "high": {}}}} | fields


def refused(given: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(FedMergeError) as caught:
        read_bench(given)
    return caught.value.args


def test_a_fault_of_all_variants_is_said_once_with_how_many_have_it():
    axes = {"lr": {"low": {"training.lr": -1}, "high": {}}, "width": {"a": {}, "b": {"model.name": "vgg"}}}
    said = refused(study(axes=axes, set={"traning": 3}))
    assert len(said) == 3
    for words in (
        "with lr low, width a and 3 more: unknown field 'traning'",
        "with lr low, width a and 1 more: field 'training.lr'",
        "with lr low, width b and 1 more: unknown model 'vgg'",
    ):
        assert sum(words in each for each in said) == 1, said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"axes": {"training.lr": [0.1, 0.10]}}, "lists the level '0.1' twice"),
        ({"sweep": ["lr", "lr"]}, "'lr' is listed twice"),
        ({"references": ["pooled", "pooled"]}, "'pooled' is listed twice"),
        ({"without": [{"lr": "low"}, {"lr": "low"}]}, "is listed twice"),
        ({"without": [{"lr": "lo"}]}, "'lo' is no level of axis 'lr'. Did you mean 'low'"),
        ({"set": {"training": {"lr": 1}, "training.lr": 2}}, "set sets 'training.lr' twice"),
        ({"axes": {"a": {"b": {"model.options": {"width": 1}, "model.options.width": 2}}}}, "a b sets"),
    ],
)
def test_a_study_sets_and_lists_nothing_twice(fields, words):
    (sentence,) = refused(study(**fields))
    assert words in sentence


def test_levels_that_are_booleans_are_named_as_yaml_writes_them():
    _, variants = read_bench(study(axes={"training.nesterov": [True, False]}))
    assert [each.levels["training.nesterov"] for each in variants] == ["true", "false"]


def test_every_check_names_sections_that_an_experiment_has():
    """A check is skipped where a section that it reads is faulty: its name must be that of a section."""
    named = {section for sections, _ in CHECKS for section in sections}
    assert named <= set(Experiment.model_fields)
    assert set(PLAIN) <= set(Experiment.model_fields)
