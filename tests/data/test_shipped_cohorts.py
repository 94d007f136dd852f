"""The cohorts in sites/: each builds, and is what its file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedmerge.data import build_cohort, cohort_names, read_cohort
from fedmerge.data.cohort.cohort import Cohort

SHIPPED = [
    "breast",
    "chest-findings",
    "digit-findings",
    "digits-domains",
    "digits-four",
    "digits-scanners",
    "melanoma4",
    "melanoma4-small",
    "pacs32",
    "pacs96",
    "pneumonia",
    "pneumonia-pair",
    "pneumonia-scanners",
    "pneumonia-shifted",
    "retina",
    "retina-grades",
    "tinyimagenet-scanners",
    "wbc-labs",
    "wbc-shifted",
    "wbc4",
    "wbc4-small",
]


def same(a: Cohort, b: Cohort) -> bool:
    pairs = zip(a.sites, b.sites, strict=True)
    return all(
        torch.equal(x.everything.images, y.everything.images)
        and torch.equal(x.everything.labels, y.everything.labels)
        for x, y in pairs
    )


def test_the_shipped_cohorts() -> None:
    assert sorted(cohort_names()) == SHIPPED


def test_digits_scanners_is_five_different_scanners_one_unseen() -> None:
    cohort = build_cohort(read_cohort("digits-scanners"), seed=0)
    assert cohort.shape == (1, 16, 16)
    assert (len(cohort.training), len(cohort.unseen)) == (4, 1)
    assert len({site.scanner for site in cohort.sites}) == 5
    assert sum(len(site.everything) for site in cohort.sites) == 1797


def test_digits_scanners_can_be_built_with_any_of_many_seeds() -> None:
    for seed in range(1, 11):
        assert build_cohort(read_cohort("digits-scanners"), seed).n_classes == 10


@pytest.mark.parametrize(
    ("name", "files", "shape", "n_classes", "unseen"),
    [
        (
            "digits-domains",
            ["digits_mnist.npz", "digits_usps.npz", "digits_semeion.npz"],
            (1, 28, 28),
            10,
            "semeion",
        ),
        (
            "digits-four",
            ["digits_mnist.npz", "digits_usps.npz", "digits_semeion.npz"],
            (1, 28, 28),
            10,
            "optdigits",
        ),
        ("pneumonia-shifted", ["pneumoniamnist.npz", "cxr_nih_28.npz"], (1, 28, 28), 2, "nih-gamma"),
        (
            "wbc-shifted",
            ["wbc_tecom_28.npz", "wbc_cellavision_28.npz"],
            (3, 28, 28),
            4,
            "cellavision-blur",
        ),
        ("pneumonia-pair", ["pneumoniamnist.npz", "cxr_nih_28.npz"], (1, 28, 28), 2, "nih"),
        ("pneumonia-scanners", ["pneumoniamnist.npz"], (1, 28, 28), 2, "hillcrest"),
        ("tinyimagenet-scanners", ["tinyimagenet100_32.npz"], (3, 32, 32), 100, None),
        (
            "wbc4",
            [f"wbc_{lab}_64.npz" for lab in ("tecom", "cellavision", "bccd", "barcelona")],
            (3, 64, 64),
            4,
            None,
        ),
        (
            "melanoma4",
            [f"melanoma_{s}_64.npz" for s in ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias")],
            (3, 64, 64),
            2,
            None,
        ),
        ("wbc-labs", ["wbc_tecom_28.npz", "wbc_cellavision_28.npz"], (3, 28, 28), 4, None),
        (
            "pacs32",
            [f"pacs_{d}.npz" for d in ("art_painting", "cartoon", "photo", "sketch")],
            (3, 32, 32),
            7,
            "sketch",
        ),
    ],
)
def test_a_shipped_cohort_of_real_images(
    real: Callable[[str], Path],
    name: str,
    files: list[str],
    shape: tuple[int, ...],
    n_classes: int,
    unseen: str,
) -> None:
    for file in files:
        real(file)
    cohort = build_cohort(read_cohort(name), seed=0)
    assert cohort.shape == shape
    assert cohort.n_classes == n_classes
    assert [site.name for site in cohort.unseen] == ([unseen] if unseen else [])


def test_pacs96_reads_folders_and_limits_them(real: Callable[[str], Path]) -> None:
    """Photos only, to be quick: 800 train, and 503 of the other 30 % are there."""
    real("pacs96")
    whole = read_cohort("pacs96")
    photo = whole.model_copy(update={"sites": tuple(s for s in whole.sites if s.name == "photo")})
    site = build_cohort(photo, seed=0)["photo"]
    assert site.everything.images.shape == (1303, 3, 96, 96)
    assert len(site.train) == 800
    assert site.class_names[0] == "dog"
