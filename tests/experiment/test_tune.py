"""A test-time method tuned on the sources, or begun from pooled training: in a run, and from its folder."""

import math

import pytest
import torch
import yaml
from facts import refused
from safetensors.torch import load_file

from fedmerge import ModelPool
from fedmerge.analysis import fit_temperature
from fedmerge.cli.tune import chosen_entry
from fedmerge.data import concat
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.entries import read_method
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.stages import predictors as candidates
from fedmerge.experiment.stages import tune
from fedmerge.models import predict
from fedmerge.testtime import TESTTIME
from fedmerge.testtime.tuning import Tuning, as_text
from fedmerge.workflows.reopened import reopen
from fedmerge.workflows.served import find_models, served
from fedmerge.workflows.tune import tune_run
from tests.testtime.grouped import adaptive

VALUES = [0.01, math.inf]
METHOD, TEMPERATURE = "entropy-adaptive", "coefficients.temperature"


def pool_of(result):
    return ModelPool(result.folder / "seed-0" / "federation" / "pool", create=False)


def test_every_source_is_held_out_and_scored_by_the_node_of_the_others(corners):
    """12 validation images fit one batch of 16, so the order of a stream changes nothing but rounding."""
    pool, log = pool_of(corners), corners.decisions.dropna(subset=["held_out"])
    assert len(log) == len(VALUES) * 3
    for row in log.to_dict("records"):
        others = [pool.model(name) for name in pool.names if name != row["held_out"]]
        node = adaptive(others, temperature=float(row["value"].strip(".")), batch_norm="mixture")
        held = corners.cohort[row["held_out"]].val
        logits, _ = node.observe(pool.card("alpha").normalisation(held.images))
        right = (logits.argmax(dim=1) == held.labels).double().mean()
        assert row["accuracy"] == pytest.approx(float(right), abs=1e-9)


def test_the_chosen_value_is_the_best_and_is_what_is_deployed(corners):
    log = corners.decisions.dropna(subset=["held_out"])
    means = log.groupby("value", sort=False)["accuracy"].mean()
    best = [value for value, mean in means.items() if math.isclose(mean, means.max())][-1]
    assert set(log.loc[log["chosen"].eq(True), "value"]) == {best}
    numbers = corners.table.set_index(["method", "stream"])[["accuracy", "brier", "ece", "validation"]]
    for stream in ("iid", "temporal"):
        tuned = numbers.loc[(f"{METHOD}-tuned", stream)]
        assert tuned.equals(numbers.loc[(f"at-{best.strip('.')}", stream)])
    report = (corners.folder / "report.html").read_text()
    assert f"Tuned: {TEMPERATURE} of {METHOD}-tuned" in report
    assert f"{best} for delta" in report


def test_a_method_that_starts_from_pooled_training_adapts_that_network(corners):
    folder = corners.folder / "seed-0" / "federation" / "delta"
    references = ModelPool(folder / "references", create=False)
    node = TESTTIME["tent"].call([references.model("pooled")], batch_norm="mixture")
    order, site = load_file(folder / "streams.safetensors")["iid"], corners.cohort["delta"].everything
    look = references.card("pooled").normalisation
    answers = [node.observe(look(site.images[index]))[0].argmax(dim=1) for index in order.split(16)]
    rows = corners.table[corners.table["stream"] == "iid"].set_index("method")
    right = (torch.cat(answers) == site.labels[order]).double().mean()
    assert rows.loc["tent-from-pooled", "accuracy"] == pytest.approx(float(right))
    assert rows.loc["tent-from-pooled", "kind"] == "test-time"
    assert rows.loc["tent-from-pooled", "validation"] == rows.loc["pooled", "validation"]


def test_the_run_s_configuration_reads_back_with_infinity(corners):
    again, _ = read_experiment(corners.folder / "config.yaml")
    assert again.testtime == corners.experiment.testtime
    assert again.testtime[0].tune.values == tuple(VALUES)


def test_a_finished_run_is_tuned_from_its_folder(corners):
    tuned = tune_run(corners.folder, option={"option": "coefficients.temperature", "values": VALUES})
    found = tuned.tuning
    log = corners.decisions.dropna(subset=["held_out"])
    assert [score.accuracy for score in found.scores] == log["accuracy"].tolist()
    assert as_text(found.chosen) == log.loc[log["chosen"].eq(True), "value"].iloc[0]
    assert tuned.entry.method == METHOD
    steps = {"option": "steps", "values": [1, 2]}
    words = tune_run(corners.folder, method="tent", option=steps, stream="iid").tuning
    assert (words.option, list(words.means)) == ("steps", [1, 2])


def test_a_held_out_source_shows_no_more_images_than_arrive_at_a_target(corners):
    few = corners.experiment.evaluation.model_copy(update={"images": 5})
    setup, site = reopen(
        corners.folder,
        corners.experiment.model_copy(update={"evaluation": few}),
        corners.cohort,
        0,
        "delta",
        "cpu",
    )
    assert len(setup.held_out_images("alpha")) == 5 == len(setup.arriving_images("delta"))
    found = tune.tune_entry(setup, site, corners.experiment.testtime[0])
    assert all(math.isclose(score.accuracy * 5, round(score.accuracy * 5)) for score in found.scores)


def test_a_service_uses_what_the_run_chose(corners):
    log = corners.decisions.dropna(subset=["held_out"])
    value = float(log.loc[log["chosen"].eq(True), "value"].iloc[0].strip("."))
    what = served(find_models([corners.folder], "delta"), f"{METHOD}-tuned", device="cpu")
    pool = pool_of(corners)
    node = adaptive([pool.model(name) for name in pool.names], temperature=value, batch_norm="mixture")
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(what.build().observe(batch)[0], node(batch))
    other = served(
        find_models([corners.folder], "delta"),
        f"{METHOD}-tuned",
        ["coefficients.temperature=3"],
        device="cpu",
    )
    cooler = adaptive([pool.model(name) for name in pool.names], temperature=3.0, batch_norm="mixture")
    assert torch.equal(other.build().observe(batch)[0], cooler(batch))


def test_cards_carry_the_temperature_of_the_validation_images(corners):
    pool = pool_of(corners)
    references = ModelPool(corners.folder / "seed-0" / "federation" / "delta" / "references", create=False)
    splits = {name: corners.cohort[name].val for name in pool.names}
    for name, val in [*splits.items(), ("pooled", concat(list(splits.values())))]:
        kept = references if name == "pooled" else pool
        logits = predict(kept.model(name), val.images, kept.card(name).normalisation)
        assert kept.card(name).metrics["temperature"] == pytest.approx(fit_temperature(logits, val.labels))
        right = (logits.argmax(dim=1) == val.labels).double().mean()
        assert kept.card(name).metrics["validation"] == pytest.approx(float(right))


@pytest.fixture
def setup(corners):
    """The run's federation as it left it, its cards with temperatures of their own: 0.5, 1.5, 2.5."""
    setup, _ = reopen(corners.folder, corners.experiment, corners.cohort, 0, "delta", "cpu")
    for index, (name, card) in enumerate(setup.pool._cards.items()):
        numbers = card.metrics | {"temperature": index + 0.5}
        setup.pool._cards[name] = card.model_copy(update={"metrics": numbers})
    return setup


def test_a_calibrated_method_gets_each_source_s_temperature_in_order(setup, calibrated):
    entry = read_method(TESTTIME, {"method": "divides", "calibrated": True})
    candidates.adapt(setup, "delta", entry, setup.pool)
    tune.make_node(setup, entry, {name: setup.pool.model(name) for name in ("gamma", "alpha")})
    candidates.adapt(setup, "delta", read_method(TESTTIME, "divides"), setup.pool)
    assert calibrated.made == [[0.5, 1.5, 2.5], [2.5, 0.5], None]


def test_while_tuning_it_gets_those_of_the_sources_that_are_left(setup, calibrated):
    entry = {"method": "divides", "calibrated": True, "tune": {"option": "temperature", "values": [1.0, 2.0]}}
    candidates.adapt(setup, "delta", read_method(TESTTIME, entry), setup.pool)
    twice = [each for others in ([1.5, 2.5], [0.5, 2.5], [0.5, 1.5]) for each in (others, others)]  # streams
    assert calibrated.made == twice * 2 + [[0.5, 1.5, 2.5]]


def test_a_card_without_a_temperature_is_a_sentence(setup, calibrated):
    card = setup.pool.card("beta")
    numbers = {key: value for key, value in card.metrics.items() if key != "temperature"}
    setup.pool._cards["beta"] = card.model_copy(update={"metrics": numbers})
    entry = read_method(TESTTIME, {"method": "divides", "calibrated": True})
    with refused("beta", "card", "temperature"):
        candidates.adapt(setup, "delta", entry, setup.pool)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "dleta"}, ["unknown target 'dleta'", "Did you mean 'delta'"]),
        ({"method": "entropy-adaptiv"}, ["entropy-adaptiv", "Did you mean 'entropy-adaptive'"]),
        (
            {"option": {"option": "coefficients.temprature", "values": [1]}},
            ["temprature", "Did you mean 'temperature'"],
        ),
        ({"method": "tent", "option": "steps"}, ["cannot tune 'steps' without candidates"]),
        ({"stream": "drift"}, ["unknown stream 'drift'", "iid"]),
        ({"seed": 3}, ["unknown seed '3'", "Allowed: 0"]),
    ],
)
def test_what_is_not_there_is_a_sentence(corners, given, words):
    with pytest.raises(FedMergeError) as caught:
        tune_run(corners.folder, **given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_run_without_models_is_a_sentence(corners, tmp_path):
    (tmp_path / "config.yaml").write_text((corners.folder / "config.yaml").read_text())
    with refused("keeps", "models"):
        tune_run(tmp_path)
    with refused("nowhere", "folder", "run"):
        tune_run(tmp_path / "nowhere")


def test_images_that_are_gone_are_a_sentence(corners, tmp_path):
    config = yaml.safe_load((corners.folder / "config.yaml").read_text())
    config["cohort"]["sites"][0]["source"] = f"npz:{tmp_path / 'gone.npz'}"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with refused("images", "machine"):
        tune_run(tmp_path)


def test_the_line_for_the_configuration_keeps_what_was_set():
    given = {"method": METHOD, "calibrated": True, "coefficients": {"head": "shared"}, "tune": TEMPERATURE}
    written = chosen_entry(read_method(TESTTIME, given), Tuning(TEMPERATURE, 0.5, ()))
    assert written == {
        "method": METHOD,
        "calibrated": True,
        "coefficients": {"head": "shared", "temperature": 0.5},
    }
    assert read_method(TESTTIME, written).calibrated
