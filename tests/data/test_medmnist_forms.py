"""Files of MedMNIST's form, made here: 14 findings an image as N x 14, one class as N x 1, in every size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmerge.data import build_cohort, read_cohort
from fedmerge.data.images.images import resize
from fedmerge.data.sources.sources import load_source
from fedmerge.tasks import MULTILABEL
from tests.facts import refused

medmnist = pytest.importorskip("medmnist", reason="medmnist is not installed")
FINDINGS = tuple(medmnist.INFO["chestmnist"]["label"].values())


def chest(folder: Path, side: int, counts: tuple[int, int, int] = (200, 40, 60)) -> Path:
    """chestmnist.npz as MedMNIST writes it: uint8 N x side x side, uint8 N x 14, few findings an image."""
    rng = np.random.default_rng(side)
    held = {}
    for name, n in zip(("train", "val", "test"), counts, strict=True):
        held[f"{name}_images"] = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        held[f"{name}_labels"] = (rng.random((n, 14)) < 0.15).astype(np.uint8)
    path = folder / ("chestmnist.npz" if side == 28 else f"chestmnist_{side}.npz")
    np.savez_compressed(path, **held)
    return path


@pytest.mark.parametrize("side", [28, 64, 128, 224])
def test_chestmnist_has_14_named_findings_in_every_size(data_here: Path, side: int) -> None:
    path = chest(data_here, side, (20, 10, 10))
    raw = load_source(f"medmnist:{path.stem}")
    with np.load(path) as held:
        assert torch.equal(raw.val.images[:, 0], torch.from_numpy(held["val_images"]))
        assert torch.equal(raw.val.labels, torch.from_numpy(held["val_labels"]))
    assert raw.train.labels.dtype == torch.uint8
    assert (raw.shape, raw.n_classes, raw.many) == ((1, side, side), 14, True)
    assert raw.class_names == FINDINGS
    assert len(FINDINGS) == 14
    assert {"atelectasis", "pneumonia", "hernia"} <= set(FINDINGS)


def test_a_cohort_s_size_takes_the_file_of_that_size(data_here: Path) -> None:
    chest(data_here, 28, (20, 10, 10))
    large = chest(data_here, 64, (20, 10, 10))
    with np.load(large) as held:
        expected = torch.from_numpy(held["train_images"])
    assert torch.equal(load_source("medmnist:chestmnist", size=64).train.images[:, 0], expected)
    assert torch.equal(resize(expected[:, None], 64)[:, 0], expected)


def test_the_shipped_cohort_divides_a_file_of_this_form(data_here: Path) -> None:
    """Every image at one hospital, all 14 findings named, the task's own counts."""
    chest(data_here, 28)
    cohort = build_cohort(read_cohort("chest-findings"), 0)
    assert cohort.task is MULTILABEL
    assert cohort.class_names == FINDINGS
    assert sum(len(site.everything) for site in cohort.sites) == 300
    assert [site.name for site in cohort.unseen] == ["priory"]
    for site in cohort.sites:
        assert site.train.labels.shape[1] == 14
        assert site.train.class_counts(14).tolist() == site.train.labels.long().sum(0).tolist()


def test_findings_for_one_class_are_refused(data_here: Path, tmp_path: Path) -> None:
    chest(data_here, 28, (20, 10, 10))
    mine = tmp_path / "mine.yaml"
    mine.write_text("source: medmnist:chestmnist\nsites: [{name: north}]\n")
    with refused("multilabel"):
        build_cohort(read_cohort(mine), 0)


def test_the_real_retinamnist_is_grades_in_order() -> None:
    """Five grades; what the median and the score are about is their order, and all are there for training."""
    folder = Path(os.environ.get("FEDMERGE_DATA", "none"))
    if not (folder / "retinamnist.npz").is_file():
        pytest.skip("retinamnist.npz is not in the folder that FEDMERGE_DATA names")
    cohort = build_cohort(read_cohort("retina-grades"), 0)
    assert (cohort.task.name, cohort.n_classes, cohort.shape) == ("ordinal", 5, (3, 28, 28))
    labels = torch.cat([site.everything.labels for site in cohort.sites])
    assert len(labels) == 1600
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4]
