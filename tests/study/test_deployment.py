"""What arrives at a hospital whose scanner drifts, and at several unseen hospitals whose images are mixed."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedmerge import run
from fedmerge.data import Split, scanner, streams
from fedmerge.data.scanner import Appearance
from fedmerge.models.inputs import Normalisation
from fedmerge.study.config import Deployment
from fedmerge.study.deployment import Arrivals, Candidate, Conditions, deploy
from fedmerge.testtime import Static

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


def rows(model, split, deployment):
    site = Arrivals.of("north", split, deployment, seed=0)
    under = Conditions(deployment, Normalisation.named("none"), "cpu", ("a",))
    measured = [each.row for each in deploy(Candidate("flat", "fusion", model), site, under)]
    assert len(measured) == site.parts(deployment.shifted)
    return {(row["stream"], row["shift"], row["severity"]): row["accuracy"] for row in measured}


@pytest.mark.parametrize("model", [Flat(), Static(Flat())], ids=["fixed", "test-time"])
def test_a_drift_is_measured_on_images_that_drift(split, model):
    """Severities 1, 2, 2, 1 of 9 stretches are below 3: 4/9 right. Under a fixed shift all are, or none is;
    a fixed shift is not put on top of the drift."""
    forms = ["iid", {"drift": "contrast"}, {"recurring": 2}]
    deployment = Deployment(batch_size=7, streams=forms, shifts=["contrast"], severities=[2, 3])
    assert rows(model, split, deployment) == {
        ("iid", "none", 0): 1.0,
        ("recurring-2", "none", 0): 1.0,
        ("drift-contrast", "none", 0): pytest.approx(4 / 9),
        ("iid", "contrast", 2): 1.0,
        ("recurring-2", "contrast", 2): 1.0,
        ("iid", "contrast", 3): 0.0,
        ("recurring-2", "contrast", 3): 0.0,
    }


def test_a_drift_alone_is_all_there_is(split):
    deployment = Deployment(streams=[{"drift": "contrast"}], shifts=["blur"])
    assert list(rows(Flat(), split, deployment)) == [("drift-contrast", "none", 0)]


def test_a_drift_is_the_scanner_of_the_fixed_shifts(split):
    """The image at place p of the stream is that of the fixed shift at the severity of p; the same twice."""
    deployment = Deployment(streams=[{"drift": "noise"}, "iid"])
    site = Arrivals.of("north", split, deployment, seed=3)
    (*_, drift), (*_, again) = ([*site.looks(())][1] for _ in range(2))
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
    changes = {"unseen": ["delta", "beta"], "deployment": {"batch_size": 16, "streams": forms, "mixed": True}}
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
