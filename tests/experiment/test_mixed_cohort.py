"""Hospitals as they are, of real images: DICOM, a table, 16-bit TIFF, arrays, to a fused model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mixed_cohort import _drawn, make
from fedmerge.data import Cohort, build_cohort, read_cohort
from fedmerge.data.cache import made, place
from fedmerge.data.checks.checks import remarks
from fedmerge.data.checks.report import check_cohort
from fedmerge.data.export import export
from fedmerge.models.cards import PixelSpacing
from fedmerge.models.pool import ModelPool
from fedmerge.reports.cohort_page import write_cohort_page
from fedmerge.workflows.run import run

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'fedmerge[dicom]'")
IDENTIFYING = (b"MADE-UP", b"Made^Up", b"patient-0")


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ.get("FEDMERGE_DATA", "none"))
    for name in ("pneumoniamnist.npz", "cxr_nih_28.npz"):
        if not (folder / name).is_file():
            pytest.skip(f"{name} is not in the folder that FEDMERGE_DATA names")
    return folder


@pytest.fixture(scope="module")
def path(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("mixed") / "hospitals", data, 60)


@pytest.fixture(scope="module")
def cohort(path: Path) -> Cohort:
    return build_cohort(read_cohort(path), 0)


def test_every_pixel_and_label_comes_back_as_it_was_before_it_was_stored(cohort: Cohort, data: Path) -> None:
    files = [np.load(data / f"{name}.npz") for name in ("pneumoniamnist", "cxr_nih_28")]
    parts = [part for file in files for part in _drawn(file, 60, 2)]
    for site, (images, labels) in zip(cohort.sites, parts, strict=True):
        given = sorted(zip((each.tobytes() for each in images), labels.tolist(), strict=True))
        whole = site.everything
        found = sorted(
            zip((each.tobytes() for each in whole.images.numpy()), whole.labels.tolist(), strict=True)
        )
        assert found == given, site.name


def test_patients_are_in_one_split_and_what_was_done_is_said(cohort: Cohort) -> None:
    for name, patients in (("guangzhou", 30), ("harbour", 30)):
        site = cohort[name]
        held = [set(split.groups.tolist()) for split in (site.train, site.val, site.test)]
        assert sum(map(len, held)) == len(set().union(*held)) == patients
    said = " ".join(remarks(cohort).values())
    assert "60 of 60 images had white as 0 (MONOCHROME1)" in said
    assert "30 patients are divided" in said


def test_it_trains_fuses_and_adapts_and_nothing_that_is_written_names_a_patient(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(made, "SMALL", 0)
    config = {
        "name": "mixed",
        "cohort": str(path),
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "training": {"rounds": 1, "epochs": 1, "batch_size": 12, "fine_tune": {"epochs": 1}},
        "fusion": ["mean", "greedy"],
        "testtime": ["entropy-adaptive"],
        "evaluation": {"streams": ["iid"], "batch_size": 20},
    }
    result = run(config, out=tmp_path / "run")
    assert set(result.table["method"]) >= {"mean", "greedy", "entropy-adaptive"}
    assert (result.table["site"] == "hillcrest").all()
    pool = ModelPool(next((tmp_path / "run").glob("seed-0/*/pool")))
    assert pool.card("guangzhou").pixel_spacing == PixelSpacing(rows=0.7, columns=0.7, varies=False)
    assert pool.card("harbour").pixel_spacing is None
    assert "pixel_spacing" not in pool.card("harbour").text
    cohort = build_cohort(read_cohort(path), 0)
    export(cohort, tmp_path / "export")
    write_cohort_page(check_cohort(cohort), cohort, tmp_path / "check.html")
    assert len(place.entries(tmp_path / "cache")) == 3
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len(files) > 20
    for file in files:
        content = file.read_bytes()
        assert not [word for word in IDENTIFYING if word in content], file
