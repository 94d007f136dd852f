"""Normalisation by each hospital's own images: everywhere the hospital's, in no message, the same bits."""

import json

import numpy as np
import pytest
import torch

from fedmerge import ModelPool, run
from fedmerge.analysis import scores
from fedmerge.data import Split, build_cohort
from fedmerge.data.cohort.cohort import Site
from fedmerge.data.images.images import concat
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.stages.planning import plan_of
from fedmerge.federation.hospital.sums.answer import HospitalSums
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.federation.plan.train_config import common_config
from fedmerge.models import predict
from fedmerge.models.inputs import LEAST_STD, Normalisation, PerImage, PerSite, channel_levels
from fedmerge.models.zoo import build
from fedmerge.seeding import Draws
from fedmerge.training import fit
from fedmerge.workflows.model_files import at_hospital
from fedmerge.workflows.served import find_models, served
from tests.experiment.interrupting import interrupt
from tests.facts import refused
from tests.same_runs import outcome, same

RULE = PerSite("site")


@pytest.fixture
def own(experiment):
    """The tiny experiment, normalised per site, with a fusion of images."""
    evaluation = experiment["evaluation"] | {"streams": ["iid"], "split": "test"}
    more = {"fusion": ["mean", "hf"], "fusion_data": {"from": "union", "images": 12}}
    return experiment | {"normalisation": "per-site", "evaluation": evaluation} | more


def saved(images, path):
    """Write images as an .npz of the usual keys."""
    arrays = {f"{name}_images": images.numpy()[:, 0] for name in ("train", "val", "test")}
    arrays |= {f"{name}_labels": np.zeros(len(images), dtype=np.int64) for name in ("train", "val", "test")}
    np.savez(path, **arrays)
    return path


def by_hand(images: torch.Tensor) -> Normalisation:
    values = images.numpy().astype(np.float64) / 255
    return Normalisation(
        tuple(values.mean(axis=(0, 2, 3))), tuple(np.maximum(values.std(axis=(0, 2, 3)), 1 / 255))
    )


def test_levels_are_mean_and_deviation_of_all_pixels():
    images = torch.randint(
        0, 256, (300, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    mean, std = channel_levels(images)
    expected = by_hand(images)
    np.testing.assert_allclose(mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(std, expected.std, rtol=1e-12)
    assert channel_levels(images.flip(0)) == (mean, std)


def test_images_of_one_value_have_the_least_deviation():
    assert RULE.of(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)) == Normalisation((0.2,), (LEAST_STD,))


def test_images_of_several_hospitals_are_each_normalised_as_their_owner_s():
    images = torch.randint(
        0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    dark, light = Normalisation((0.2,), (0.5,)), Normalisation((0.7,), (0.1,))
    both = PerImage((dark, light), torch.tensor([0, 1, 1, 0, 1, 0]))
    for i, normalise in enumerate((dark, light, light, dark, light, dark)):
        assert torch.equal(both(images)[i : i + 1], normalise(images[i : i + 1]))
    assert torch.equal(both.only(torch.tensor([4, 0]))(images[[4, 0]]), both(images)[[4, 0]])


def test_a_message_and_a_card_say_the_rule_alone(own):
    cohort = build_cohort(own["cohort"], 0)
    said = common_config(plan_of(read_experiment(own)[0], cohort, 0))["normalisation"]
    assert said == {"per": "site"}


def test_every_hospital_s_own_in_training_fusion_and_at_the_unseen_one(own, tmp_path):
    first = run(own, out=tmp_path / "run")
    folder, cohort = first.folder / "seed-0" / "federation", first.cohort
    pool = ModelPool(folder / "pool")
    assert pool.card("alpha").normalisation == RULE
    assert json.loads((folder / "pool" / "alpha.json").read_text())["normalisation"] == {"per": "site"}
    delta = cohort["delta"]
    look = by_hand(delta.train.images)
    table = first.table.set_index("method")
    for method, model in (("alone:beta", pool.model("beta")), ("mean", _fused(folder, "mean"))):
        again = scores(predict(model, delta.test.images, look), delta.test.labels)
        assert table.loc[method, "accuracy"] == again["accuracy"]
        assert table.loc[method, "brier"] == pytest.approx(again["brier"])
    held, own_look = cohort["beta"].val, by_hand(cohort["beta"].train.images)
    beta = scores(predict(pool.model("beta"), held.images, own_look), held.labels)
    assert table.loc["alone:beta", "validation"] == beta["accuracy"]
    found, file = find_models([folder / "pool"]), saved(delta.train.images, tmp_path / "delta.npz")
    with refused("'alpha'", "--normalise"):
        served(found, "mean", device="cpu")
    what = served(found, "mean", device="cpu", normalise=f"npz:{file}")
    assert torch.equal(what.prepare([delta.test.images]), RULE.of(delta.train.images)(delta.test.images))
    assert what.fingerprint != served(found, "mean", device="cpu", normalise="digits").fingerprint
    shared = run(own | {"normalisation": "half"}, out=tmp_path / "half")
    assert not np.array_equal(shared.table["brier"], first.table["brier"])


def _fused(folder, name):
    return ModelPool(folder / "delta" / "fused").model(name)


def test_pooled_training_normalises_each_image_as_its_hospital_does(own):
    """One step on the joined images is one step on those normalised by hand."""
    experiment, cohort = read_experiment(own)[0], build_cohort(own["cohort"], 0)
    plan = plan_of(experiment, cohort, 0)
    sites = [cohort[name] for name in ("alpha", "beta")]
    both = concat([site.train for site in sites])
    owners = torch.arange(2).repeat_interleave(torch.tensor([len(site.train) for site in sites]))
    normalise = PerImage(tuple(by_hand(site.train.images) for site in sites), owners)
    ready = normalise(both.images)
    where = {}
    for image, one in zip(both.images, ready, strict=True):
        where.setdefault(image.numpy().tobytes(), []).append(one)
    one, two = build(plan.model, 0), build(plan.model, 0)
    options = plan.local.model_copy(update={"batch_size": len(both)})
    fit(one, both.images, both.labels, options, normalise=normalise, draws=Draws(0))

    def looked_up(batch):
        return torch.stack([where[image.numpy().tobytes()][0] for image in batch])

    fit(two, both.images, both.labels, options, normalise=looked_up, draws=Draws(0))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_a_resumed_run_ends_with_the_same_bits(own, tmp_path, monkeypatch):
    run(own, out=tmp_path / "whole")
    interrupt(own, tmp_path / "run", monkeypatch, rounds=1)
    run(own, resume=tmp_path / "run")
    same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def test_what_could_not_be_honest_is_refused(own):
    everything = own | {"evaluation": own["evaluation"] | {"split": "all", "mixed": True}}
    with refused("per-site", "evaluation.split: test", "evaluation.mixed"):
        read_experiment(everything)
    assert read_experiment(
        everything | {"unseen": "none", "evaluation": own["evaluation"] | {"split": "all"}}
    )


def test_a_hospital_without_training_images_has_no_levels():
    nothing = Split(torch.empty(0, 1, 4, 4, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    with refused("site 'coast'", "no training images", "per-site"):
        RULE.at(Site("coast", "digits", nothing, nothing, nothing, ("a", "b")))


def test_noise_of_one_image_does_not_cover_a_normalisation_by_all(own):
    cohort = build_cohort(own["cohort"], 0)
    sums = HospitalSums(cohort["alpha"], rules=SumRules(noise=1.0))
    with refused("site 'alpha'", "noise", "per-site"):
        sums._normalisation(type("Job", (), {"normalisation": RULE})())


def test_files_of_models_need_images_of_the_hospital_where_they_are_used(own, tmp_path):
    cohort = build_cohort(own["cohort"], 0)
    plan = plan_of(read_experiment(own)[0], cohort, 0)
    card = ModelPool(tmp_path / "pool").add(
        "one", build(plan.model, 0).state_dict(), model=plan.model, normalisation=RULE,
        class_names=cohort.class_names, method="local training",
    )  # fmt: skip
    images = cohort["delta"].train.images
    saved(images, tmp_path / "delta.npz")
    with refused("'one'", "--normalise"):
        at_hospital(card, None)
    found = at_hospital(card, f"npz:{tmp_path / 'delta.npz'}").normalisation
    assert found.mean == pytest.approx(by_hand(images).mean)
    shared = card.model_copy(update={"normalisation": Normalisation.named("half")})
    with refused("'one'", "one normalisation for all", "take --normalise out"):
        at_hospital(shared, "digits")
