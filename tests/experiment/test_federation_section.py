"""The section ``federation:`` in an experiment: written as it was set, and refused before anything runs."""

import re
from pathlib import Path

import pytest
import yaml
from facts import refused

from fedmerge import run
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.summary.federation_summary import federation_in_words
from fedmerge.experiment.summary.privacy_summary import privacy_in_words, study_privacy_in_words
from fedmerge.federation import FederationOptions
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.privacy.accounting import NOT_COVERED, SIMULATED, epsilon, epsilon_of


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
    with refused("fedadam"):
        read_experiment(experiment, ["federation.optimizer=adam"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["federation.aggregate={method: kf, split: val}"], ("alpha", "hospital", "12")),
        (["federation.participation={number: 4}"], ("3", "hospitals", "train")),
        (["federation.personal=norms", "model.options.norm=group"], ("small-cnn", "none")),
        (["federation.secure_aggregation=true"], ("set", "training.fine_tune", "none")),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(experiment, tmp_path, changes, sentence):
    with refused(*sentence):
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
            "hospitals misbehaved on purpose (fault injection: nan and crash); what it did "
            "is among the failures",
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


def history(releases, seeds=(0,)):
    """Rows of the last round, as the server writes them."""
    rows = [{"phase": "aggregate", "federation": "federation", "site": "a", "releases": n} for n in releases]
    return [row | {"seed": seed} for seed in seeds for row in rows] + [{"phase": "train", "seed": 0}]


def test_the_report_says_what_privacy_cost_and_what_that_is_not(experiment):
    """Epsilon by ``epsilon``, which has its own tests; seeds are on the same images, so they add up."""
    read, _ = read_experiment(experiment, ["federation.privacy={clip: 0.5, noise: 2}"])
    options = CentralPrivacy(clip=0.5, noise=2)
    assert "the noise on their sum has 2 times" in federation_in_words(read)
    assert "epsilon" not in federation_in_words(read)
    one = privacy_in_words(read, history([1, 2]))
    assert f"epsilon = {epsilon(options, 2):.3g} at delta = 1e-05" in one
    assert NOT_COVERED in one
    three = privacy_in_words(read, history([2], seeds=(0, 1, 2)))
    assert f"epsilon = {epsilon(options, 6):.3g} at delta = 1e-05" in three
    assert "3 federations" in three


def test_a_study_s_variants_add_up_because_their_images_are_the_same():
    """Two releases of noise 2 and three of noise 1 are one of noise (2 / 4 + 3)^-1/2; of local noise half."""
    strong, weak = {"kind": "central", "clip": 1, "noise": 2}, {"kind": "adaptive", "noise": 1}
    said = study_privacy_in_words([(strong, history([1, 2])), (weak, history([3])), (weak, [])])
    expected = epsilon_of([3.5**-0.5], 1e-5)
    assert f"epsilon = {expected:.3g} at delta = 1e-05, against having given nothing" in said
    assert "in 5 releases of 3 federations of this study together" in said
    assert f"at most {epsilon_of([1] * 3, 1e-5):.3g})" in said
    local = {"kind": "local", "clip": 1, "noise": 2, "delta": 1e-6}
    both = study_privacy_in_words([(strong, history([2])), (local, history([2]))])
    assert f"epsilon = {epsilon_of([2] * 2, 1e-5):.3g} at delta = 1e-05, against having given nothing" in both
    assert f"epsilon = {epsilon_of([1] * 2, 1e-6):.3g} at delta = 1e-06, for any two data sets" in both
    assert study_privacy_in_words([(strong | {"simulate": True}, [])]) == SIMULATED


def test_simulated_noise_is_said_to_protect_nobody(experiment):
    read, _ = read_experiment(experiment, ["federation.privacy={clip: 0.5, noise: 2, simulate: true}"])
    said = privacy_in_words(read, history([2]))
    assert "whoever knows the seed can take it off, so no epsilon is told" in said
    assert "epsilon =" not in said + federation_in_words(read)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ("{kind: adaptive, noise: 2}", "begins at 0.1 and follows the quantile 0.5 of their norms"),
        ("{kind: local, clip: 0.5, noise: 2}", "adds noise of 2 times that before it leaves"),
    ],
)
def test_the_report_says_where_noise_comes_in(experiment, privacy, words):
    read, _ = read_experiment(experiment, [f"federation.privacy={privacy}"])
    assert words in federation_in_words(read)
    plain = read.model_copy(update={"federation": FederationOptions()})
    assert privacy_in_words(plain, []) == ""


@pytest.mark.parametrize(
    "privacy", ["{kind: median, clip: 1, noise: 1}", "{clip: 1, noise: 1, quantile: 0.5}", "{noise: 1}"]
)
def test_privacy_that_is_none_is_refused_by_its_field(experiment, privacy):
    with pytest.raises(FedMergeError, match=r"federation\.privacy"):
        read_experiment(experiment, [f"federation.privacy={privacy}"])
