"""What arrives at a hospital: drifting scanners, mixed sites, a part of the images; and who is asked once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from facts import refused
from safetensors.torch import load_file
from torch import nn

from fedmerge import run
from fedmerge.data import Split, scanner, streams
from fedmerge.data.scanner import Appearance
from fedmerge.experiment.configuration.config import EvaluationConfig
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.stages.evaluation import (
    EvaluationConditions,
    Predictor,
    evaluation_tasks,
)
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import set_up
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.models.inputs import Normalisation
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.schema.validation import validate
from fedmerge.seeding import generator
from fedmerge.testtime import Static
from fedmerge.testtime.baselines import DaWin, EntropyWeighted, JensenShannon, Memo, Tent
from fedmerge.testtime.contract import Trace

STRETCH = 4


class Flat(nn.Module):
    """Says class 1 where white and black differ by less than 1 - 0.14 x 2.5: contrast at severity 3 to 5."""

    def forward(self, images):
        flat = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)) < 0.65).float()
        return torch.stack([1 - flat, flat], dim=1)


@pytest.fixture
def split():
    """36 images, half black and half white; all are of class 0."""
    images = torch.zeros(9 * STRETCH, 1, 8, 8, dtype=torch.uint8)
    images[:, :, :4] = 255
    return Split(images, torch.zeros(len(images), dtype=torch.int64))


def rows(model, split, evaluation):
    site = TargetStreams.of("north", split, evaluation, seed=0)
    conditions = EvaluationConditions(evaluation, Normalisation.named("none"), "cpu", ("a",))
    tasks = evaluation_tasks(Predictor("flat", "fusion", model), site, conditions)
    measured = [each.row for task in tasks for each in task.measure()]
    assert len(measured) == site.parts(evaluation.shifted)
    return {(row["stream"], row["shift"], row["severity"]): row["accuracy"] for row in measured}


@pytest.mark.parametrize("model", [Flat(), Static(Flat())], ids=["fixed", "test-time"])
def test_a_drift_is_measured_on_images_that_drift(split, model):
    """Severities 1, 2, 2, 1 of 9 stretches are below 3: 4/9 right. Under a fixed shift all are, or none is;
    a fixed shift is not put on top of the drift."""
    forms = ["iid", {"drift": "contrast"}, {"recurring": 2}]
    evaluation = EvaluationConfig(batch_size=7, streams=forms, shifts=["contrast"], severities=[2, 3])
    assert rows(model, split, evaluation) == {
        ("iid", "none", 0): 1.0,
        ("recurring-2", "none", 0): 1.0,
        ("drift-contrast", "none", 0): pytest.approx(4 / 9),
        ("iid", "contrast", 2): 1.0,
        ("recurring-2", "contrast", 2): 1.0,
        ("iid", "contrast", 3): 0.0,
        ("recurring-2", "contrast", 3): 0.0,
    }


def test_a_drift_alone_is_all_there_is(split):
    evaluation = EvaluationConfig(streams=[{"drift": "contrast"}], shifts=["blur"])
    assert list(rows(Flat(), split, evaluation)) == [("drift-contrast", "none", 0)]


def test_a_drift_is_the_scanner_of_the_fixed_shifts(split):
    """The image at place p of the stream is that of the fixed shift at the severity of p; the same twice."""
    evaluation = EvaluationConfig(streams=[{"drift": "noise"}, "iid"])
    site = TargetStreams.of("north", split, evaluation, seed=3)
    (*_, drift), (*_, again) = ([*site.views(())][1] for _ in range(2))
    assert torch.equal(drift.split.images, again.split.images)
    order = drift.orders["drift-noise"]
    for severity in range(1, 6):
        fixed = site.shifted("noise", severity).split.images
        at = order[streams.severities(len(order)) == severity]
        assert torch.equal(drift.split.images[at], fixed[at])
        look = [Appearance(kind="noise", severity=severity)]
        assert torch.equal(fixed, scanner.apply(split.images, look, 3, "north, shifted"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_a_run_with_mixed_sites_and_drift(experiment, folder):
    """beta and delta together: 60 + 60 images in each stream; the orders index those of beta first."""
    forms = ["iid", {"recurring": 2}, {"drift": "contrast"}]
    changes = {"unseen": ["delta", "beta"], "evaluation": {"batch_size": 16, "streams": forms, "mixed": True}}
    result = run(experiment | {"fusion": ["mean"]} | changes, out=folder / "mixed")
    assert result.failures.empty
    assert set(result.table["site"]) == {"mixed"}
    assert set(result.table["method"]) >= {"alone:alpha", "alone:gamma", "pooled", "mean", "entropy-adaptive"}
    assert result.table.groupby("method")["stream"].agg(list).map(len).eq(3).all()
    assert (result.table["n"] == 120).all()
    assert set(result.coefficients["stream"]) == {"iid", "recurring-2", "drift-contrast"}
    orders = load_file(result.folder / "seed-0" / "federation" / "mixed" / "streams.safetensors")
    assert all(order.sort().values.equal(torch.arange(120)) for order in orders.values())
    batches = orders["iid"].numpy()[:112].reshape(7, 16) < 60
    assert np.all(batches.any(axis=1) & ~batches.all(axis=1))  # each holds images of both
    labels = np.concatenate([result.cohort[name].everything.labels for name in ("beta", "delta")])
    seen = labels[orders["recurring-2"].numpy()]
    assert np.count_nonzero(np.diff(seen)) == 5  # three classes, twice
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "beta and delta, unseen in training and mixed in every stream, receive the result" in page
    assert "2 hospitals of" in page


@pytest.fixture
def arrive(experiment, cohort):
    """The images that arrive at a place of the tiny cohort, with what the deployment says beside batches."""

    def at(target, seed=0, hospitals=cohort, **evaluation):
        given = experiment | {
            "unseen": ["delta", "beta"],
            "evaluation": {"streams": ["iid"]} | evaluation,
        }
        read, members = read_experiment(given)[0], ("alpha", "gamma")
        setup = set_up(read, hospitals, members, seed, Path(), Record({}), "cpu")
        return setup.arriving_images(target)

    return at


def places(few, every):
    """Where each image of ``few`` lies in ``every``, whose images are all different."""
    return [(every.images == image).flatten(1).all(1).nonzero().item() for image in few.images]


@pytest.mark.parametrize("target", ["delta", "mixed"])
def test_a_part_of_the_images_arrives_in_their_order(arrive, target):
    every, few = (arrive(target, **given) for given in ({}, {"images": 7}))
    at = places(few, every)
    assert len(at) == 7
    assert at == sorted(set(at))
    assert few.labels.equal(every.labels[at])
    assert places(arrive(target, images=7), every) == at
    assert places(arrive(target, images=7, shifts=["blur"], streams=["temporal"]), every) == at
    assert places(arrive(target, images=7, seed=1), every) != at


def test_of_few_images_all_arrive(arrive):
    """At delta and beta there are 60 each: 60 is no limit, and the mixed place draws from both together."""
    assert len(arrive("delta", images=60)) == len(arrive("delta", images=10**9)) == 60
    assert arrive("delta", images=60).images.equal(arrive("delta").images)
    mixed = places(arrive("mixed", images=61), arrive("mixed"))
    assert len(mixed) == 61
    assert min(mixed) < 60 <= max(mixed)
    assert mixed[:60] != list(range(60))


def test_known_patients_come_one_after_the_other(arrive, cohort):
    """Patients 0, 1, ... have four images of each split at every site; no two sites share a patient."""

    def known(split):
        return replace(split, groups=torch.arange(len(split)) // 4)

    sites = tuple(
        replace(site, train=known(site.train), val=known(site.val), test=known(site.test))
        for site in cohort.sites
    )
    mixed = arrive("mixed", hospitals=replace(cohort, sites=sites))
    parts = [site.everything.groups.tolist() for site in sites if site.name in ("beta", "delta")]
    pairs = [(k, patient) for k, part in enumerate(parts) for patient in part]
    groups = mixed.groups.tolist()
    assert len(set(pairs)) == len(set(groups)) == len(set(zip(pairs, groups, strict=True)))

    given = EvaluationConfig(streams=["temporal", "iid"])
    by_patient = TargetStreams.of("mixed", mixed, given, 0)
    by_class = TargetStreams.of("mixed", replace(mixed, groups=None), given, 0)
    assert np.array_equal(by_patient.orders["iid"], by_class.orders["iid"])
    codes = mixed.labels * 1000 + mixed.groups
    stays, mixes = (len(codes[of.orders["temporal"]].unique_consecutive()) for of in (by_patient, by_class))
    assert stays == len(codes.unique()) < mixes
    assert by_patient.shifted("blur", 1).split.groups.equal(mixed.groups)


def test_a_limit_is_written_only_where_it_is_set():
    given = {"streams": ["iid"], "images": 3}
    assert EvaluationConfig(**given).model_dump()["images"] == 3
    assert "images" not in EvaluationConfig(streams=["iid"]).model_dump(mode="json")
    with refused("evaluation", "images", "0"):
        validate(EvaluationConfig, given | {"images": 0}, "evaluation")


class ByItself(nn.Module):
    """A node that answers each image with its mean, says how often it was asked, and traces each batch."""

    def __init__(self, order_free):
        super().__init__()
        self.order_free, self.asked = order_free, []
        self.forward_passes = self.backward_passes = 0

    def observe(self, batch):
        self.asked[-1] += len(batch)
        self.forward_passes += 3
        self.backward_passes += 2
        value = batch.mean((1, 2, 3)) - 0.5
        return torch.stack([value, -value], dim=1), Trace((1.0,), (1.0,), (0.5,), None, len(batch))

    def reset(self):
        self.asked.append(0)
        self.forward_passes = self.backward_passes = 0


@pytest.fixture
def noisy():
    """20 random images of two classes."""
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator(0, "test"), dtype=torch.uint8)
    return Split(images, torch.arange(20) % 2)


def measured(node, split, sources=("a",), **evaluation):
    forms = ["iid", "temporal", {"drift": "contrast"}]
    given = EvaluationConfig(**({"batch_size": 7, "streams": forms} | evaluation))
    site = TargetStreams.of("north", split, given, seed=0)
    conditions = EvaluationConditions(given, Normalisation.named("half"), "cpu", sources)
    tasks = evaluation_tasks(Predictor("node", "test-time", node), site, conditions)
    return [each for task in tasks for each in task.measure()]


def assert_same(some, others):
    """The same rows but for their seconds, and the same bins."""
    rows = [pd.DataFrame([each.row for each in part]).drop(columns="seconds") for part in (some, others)]
    bins = [pd.DataFrame([bin for each in part for bin in each.bins]) for part in (some, others)]
    for one, other in (rows, bins):
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-5)


def test_an_order_free_node_is_asked_once_for_all_orders_of_the_same_images(noisy):
    """iid and temporal, the drift, then each still stream under one shift: 5 walks, or 3. The passes are
    those of a batch."""
    often, once = ByItself(False), ByItself(True)
    walked, read = (measured(node, noisy, shifts=["noise"], severities=[2]) for node in (often, once))
    assert often.asked == [20] * 5
    assert once.asked == [20] * 3
    assert_same(read, walked)
    assert all(each.row["forward_passes"] == 3 and each.row["backward_passes"] == 2 for each in read)
    assert read[0].row["seconds"] == read[1].row["seconds"] > 0
    traced = {each.row["stream"]: len(each.trace) for each in read if each.row["severity"] == 0}
    assert traced == {"iid": 3, "temporal": 0, "drift-contrast": 3}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (DaWin, {"form": "sample"}),
        (EntropyWeighted, {"form": "sample"}),
        (JensenShannon, {"form": "sample"}),
        (JensenShannon, {"form": "sample", "rule": "consensus"}),
        (Memo, {"learning_rate": 0.5}),
    ],
)
def test_what_is_read_off_the_first_order_is_what_the_second_would_give(noisy, method, options):
    nets = [build(ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8), s) for s in (0, 1)]
    node = method(nets, **options)
    assert node.order_free
    _, read = measured(node, noisy, ("a", "b"), streams=["iid", "temporal"])
    node.order_free = False
    (walked,) = measured(node, noisy, ("a", "b"), streams=["temporal"])
    assert_same([read], [walked])


def test_methods_that_look_at_the_batch_are_not_order_free():
    nets = [build(ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8), s) for s in (0, 1)]
    whole = [method(nets, form="batch") for method in (DaWin, EntropyWeighted, JensenShannon)]
    assert not any(node.order_free for node in [*whole, Tent(nets)])
