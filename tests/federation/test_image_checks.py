"""The checks that a hospital tells: right where it tells, silent about few images and about names."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedmerge.cli.deployment.state_text import inspection_text
from fedmerge.data import CohortSpec, Site, SiteSpec, Split, build_cohort
from fedmerge.federation.hospital.image_checks import ImageChecks, check_images
from fedmerge.federation.hospital.inspection import inspect
from fedmerge.federation.messages.jobs import InspectJob
from fedmerge.tasks import MULTILABEL


def site(images: np.ndarray, labels: np.ndarray | None = None, names: tuple[str, ...] = ("a", "b")) -> Site:
    """A hospital with all its images, uint8 N x H x W, in train."""
    known = torch.from_numpy(np.zeros(len(images), dtype=np.int64) if labels is None else labels)
    pixels = torch.from_numpy(images).unsqueeze(1)
    nothing = Split(pixels[:0], known[:0])
    return Site("north", "arrays", Split(pixels, known), nothing, nothing, names)


def middles(n: int, seed: int = 0) -> np.ndarray:
    """Images of 16 px, 180 in the middle and 60 around it, with a little noise."""
    images = np.full((n, 16, 16), 60, dtype=np.int64)
    images[:, 4:12, 4:12] = 180
    return (images + np.random.default_rng(seed).integers(-9, 10, images.shape)).astype(np.uint8)


def test_negatives_are_counted_and_the_middle_says_which_way_round_all_are() -> None:
    images = middles(40)
    images[:6] = 255 - images[:6]
    found = check_images(site(images), 5)
    assert found.negatives == 6
    images[3:6] = 255 - images[3:6]
    assert check_images(site(images), 5).negatives == "<5"
    assert check_images(site(middles(40)), 5).middle == pytest.approx(120, abs=2)
    assert check_images(site(255 - middles(40)), 5).middle == pytest.approx(-120, abs=2)
    assert check_images(site(middles(4)), 5).middle is None


def test_images_without_structure_have_no_negatives() -> None:
    assert check_images(site(np.full((30, 16, 16), 7, dtype=np.uint8)), 5).negatives is None


def test_brightness_is_told_where_every_class_has_the_minimum() -> None:
    """Class b is brighter in all pairs but those of one image that is as bright as one of a: by hand."""
    means = np.array([10, 20, 30, 40, 50, 50, 60, 70, 80, 90], dtype=np.uint8)
    images = means[:, None, None] * np.ones((1, 16, 16), dtype=np.uint8)
    labels = np.repeat([0, 1], 5)
    assert check_images(site(images, labels), 5).brightness == {"a": 0.02, "b": 0.98}
    assert check_images(site(images, labels), 6).brightness is None
    three = site(images, labels, ("a", "b", "c"))
    assert check_images(three, 5).brightness is None
    findings = np.stack([labels, np.ones(10, dtype=np.int64)], axis=1).astype(np.uint8)
    several = replace(site(images, findings), task=MULTILABEL)
    assert check_images(several, 5).brightness is None  # nobody is without b
    findings[:5, 1] = 0
    assert check_images(replace(site(images, findings), task=MULTILABEL), 5).brightness == {
        "a": 0.98,
        "b": 0.98,
    }


def test_near_duplicates_are_counted_once_each() -> None:
    pytest.importorskip("imagehash", reason="imagehash is not installed: pip install 'fedmerge[checks]'")
    coarse = np.random.default_rng(0).integers(40, 200, (40, 8, 8), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in coarse]
    assert check_images(site(np.stack(images)), 5).near_duplicates == 0
    for quality in (95, 90):
        for image in images[:4]:
            content = io.BytesIO()
            Image.fromarray(image).save(content, format="JPEG", quality=quality)
            images.append(np.asarray(Image.open(content)))
    assert check_images(site(np.stack(images)), 5).near_duplicates == 8
    assert check_images(site(np.stack(images[:42])), 5).near_duplicates == "<5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of three sizes in two classes, 12 DICOM files, and 5 of a suffix that is a name."""
    rng = np.random.default_rng(0)
    for name, sizes in (("a", [(16, 16)] * 14), ("b", [(16, 16)] * 6 + [(20, 10)] * 6 + [(9, 9)] * 2)):
        (tmp_path / name).mkdir()
        for i, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i:02}.png")
    for i in range(12):
        (tmp_path / "a" / f"{i}.dcm").write_bytes(b"none")
    for i in range(5):
        (tmp_path / "b" / f"{i}.smith").write_bytes(b"none")
    return tmp_path


def hospital(folder: Path, *names: str) -> Site:
    sites = tuple(SiteSpec(name=name, source=f"folder:{folder}") for name in names)
    spec = CohortSpec(name="t", sites=sites, size=16, left_out="allow", label_skew=None)
    return build_cohort(spec, 0).sites[0]


def test_sizes_and_files_left_out_are_told_without_the_rare_ones_and_without_names(folder: Path) -> None:
    found = check_images(hospital(folder, "north"), 5)
    assert found.sizes == {"16x16": "hidden", "20x10": "hidden", "other": "hidden"}
    assert found.left_out == {".dcm": 12, "other": 5}
    assert "smith" not in found.model_dump_json()
    assert check_images(hospital(folder, "north"), 13).left_out == {"other": 17}


def test_what_several_hospitals_divide_tells_nothing_of_files(folder: Path) -> None:
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"more-{i}.png")
    found = check_images(hospital(folder, "north", "south"), 1)
    assert (found.sizes, found.left_out) == (None, None)


def test_a_terminal_shows_what_is_told_and_what_is_not(folder: Path) -> None:
    told = inspect(hospital(folder, "north"), InspectJob(checks=True)).model_dump(mode="json")
    text = inspection_text([told])
    assert "sizes: 16x16 hidden, 20x10 hidden, other hidden" in text
    assert "left out: .dcm 12, other 5" in text
    told["checks"] = ImageChecks(middle=-3).model_dump(mode="json")
    assert "near duplicates: not told; like a negative: not told; middle against edge: -3" in inspection_text(
        [told]
    )
    assert inspection_text([told | {"checks": None}]).count("not told") == 0
    assert "checks: not told" in inspection_text([told | {"checks": None}], checks=True)
