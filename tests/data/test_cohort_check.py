"""The check of a cohort: each finding on images that have its fault, and none on images that do not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fedmerge.data import Arrays, CohortSpec, SiteSpec, build_cohort
from fedmerge.data.checks.intensity import auroc
from fedmerge.data.checks.report import CohortCheck, check_cohort

pytest.importorskip("imagehash", reason="imagehash is not installed: pip install 'fedmerge[checks]'")


def noise(seed: int, n: int = 60, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images of 32 px, all different, and labels 0 1 0 1 …"""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (n, 8, 8), dtype=np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in coarse]
    )
    return images, np.arange(n) % 2


def checked(**sites: tuple[np.ndarray, np.ndarray]) -> CohortCheck:
    """The last of the sites is unseen."""
    names = list(sites)
    specs = [SiteSpec(name=n, source=Arrays(*sites[n]), unseen=n == names[-1]) for n in names]
    return check_cohort(build_cohort(CohortSpec(name="t", sites=tuple(specs)), 0))


def kinds(check: CohortCheck) -> set[str]:
    return {finding.kind for finding in check.findings}


def test_images_without_a_fault_have_no_finding() -> None:
    check = checked(a=noise(0), b=noise(1), c=noise(2))
    assert check.findings == ()
    assert check.exit_code == 0
    assert check.bytes == 180 * 32 * 32
    assert [sum(site.images.values()) for site in check.sites] == [60] * 3
    assert check.sites[0].classes["train"] == {"0": 18, "1": 18}


def test_a_hospital_that_is_brighter_is_told_by_it() -> None:
    images, labels = noise(2)
    check = checked(a=noise(0), b=noise(1), c=((images // 4 + 190).astype(np.uint8), labels))
    (finding,) = [each for each in check.findings if each.kind == "hospital told"]
    assert "c can be told" in finding.text
    assert "1.00" in finding.text
    assert check.exit_code == 1


def test_a_label_that_brightness_gives_away_is_named() -> None:
    images, labels = noise(0)
    images = np.where(labels[:, None, None] == 1, images // 2 + 120, images // 2).astype(np.uint8)
    (finding,) = [
        each
        for each in checked(a=(images, labels), b=noise(1), c=noise(2)).findings
        if "guessed" in each.kind
    ]
    assert "at a the" in finding.text
    assert "1.00" in finding.text


def test_a_negative_is_noticed() -> None:
    """Images that share a bright middle, and one hospital's negatives."""
    bump = np.exp(-(np.linspace(-2, 2, 32) ** 2))
    middle = (90 * np.outer(bump, bump)).astype(np.uint8)
    sites = {
        name: ((noise(i)[0] // 2 + middle).astype(np.uint8), noise(i)[1]) for i, name in enumerate("abc")
    }
    assert "polarity" not in kinds(checked(**sites))
    sites["b"] = (255 - sites["b"][0], sites["b"][1])
    (finding,) = [each for each in checked(**sites).findings if each.kind == "polarity"]
    assert "image of b" in finding.text


def test_the_same_picture_compressed_anew_looks_alike() -> None:
    images, labels = noise(0)
    packed = []
    for image in images[:5]:
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="JPEG", quality=90)
        packed.append(np.asarray(Image.open(content)))
    other = noise(1)[0]
    other[:5] = packed
    check = checked(a=(images, labels), b=noise(2), c=(other, labels))
    said = " ".join(each.text for each in check.findings if each.kind == "look-alikes")
    assert "between a" in said
    assert "look-alikes" not in kinds(checked(a=noise(0), b=noise(2), c=noise(1)))


def test_leaks_are_errors_and_a_missing_class_a_warning() -> None:
    images, labels = noise(0)
    check = checked(a=(images, labels), b=noise(1), c=(images, labels))
    assert check.findings[0].severity == "error"
    assert "unseen c" in kinds(check)
    assert check.exit_code == 2
    three = np.arange(60) % 3
    check = checked(
        a=(images, three), b=(noise(1)[0], np.where(three == 1, 0, three)), c=(noise(2)[0], three)
    )
    assert any("b has no image of 1 of 3 classes: 1" in each.text for each in check.findings)


def test_the_area_under_the_curve_by_hand() -> None:
    """Of the pairs (1, 2), (1, 3), (2, 2), (2, 3), positive second: 1 + 1 + 1/2 + 1 of 4."""
    assert auroc(np.array([1, 2, 2, 3]), np.array([False, False, True, True])) == 3.5 / 4
    assert auroc(np.ones(3), np.ones(3, dtype=bool)) == 0.5
