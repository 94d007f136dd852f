"""Remarks on data that cannot teach: every number is put into the data by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedmerge.data import Arrays, CohortSpec, build_cohort
from fedmerge.data.checks.checks import remarks, together
from fedmerge.data.images.facts import facts_of
from fedmerge.schema.validation import validate


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)


def hospital(
    name: str, seed: int, *, n: int = 20, unseen: bool = False, **parts: np.ndarray
) -> dict[str, Any]:
    """n training, 10 validation and 10 test images, of two classes in turn; ``parts`` replaces images."""
    images = {
        "train": random_images(n, seed),
        "val": random_images(10, seed + 1),
        "test": random_images(10, seed + 2),
    }
    images |= parts
    pairs = {split: (each, np.arange(len(each)) % 2) for split, each in images.items()}
    source = Arrays(*pairs["train"], val=pairs["val"], test=pairs["test"])
    return {"name": name, "source": source, "unseen": unseen}


def said(*sites: dict[str, Any], seed: int = 0, **fields: Any) -> dict[str, str]:
    spec = validate(CohortSpec, {"name": "test", "sites": list(sites), **fields}, "test")
    return remarks(build_cohort(spec, seed))


def test_sound_data_have_no_remarks() -> None:
    assert said(hospital("north", 0), hospital("south", 10), hospital("coast", 20, unseen=True)) == {}


def test_a_black_hospital_is_named_with_its_numbers() -> None:
    """South is black but for its 10 test images; north has three grey images of one value."""
    north = random_images(20)
    north[:3] = 99
    black = {split: np.zeros((n, 8, 8), np.uint8) for split, n in (("train", 20), ("val", 10))}
    found = said(hospital("north", 0, train=north), hospital("south", 10, **black))
    assert list(found) == ["flat"]
    assert "north 3 of 40, south 30 of 40" in found["flat"]


def test_a_black_hospital_is_seen_behind_a_noisy_scanner() -> None:
    black = {split: np.zeros((n, 8, 8), np.uint8) for split, n in (("train", 20), ("val", 10), ("test", 10))}
    south = hospital("south", 10, **black) | {"scanner": [{"kind": "noise", "severity": 3}]}
    assert "south 40 of 40" in said(hospital("north", 0), south)["flat"]


def test_images_of_zeros_and_ones_are_remarked_on_and_so_are_few_bits() -> None:
    parts = {"train": random_images(20, 3), "val": random_images(10, 4), "test": random_images(10, 5)}
    ones = {split: images % 2 for split, images in parts.items()}
    levels = {split: images % 17 for split, images in parts.items()}
    found = said(hospital("north", 0), hospital("south", 10, **ones), hospital("east", 20, **levels))
    assert set(found) == {"dim", "dark"}
    assert "south 40 of 40" in found["dim"]
    assert "multiply" in found["dim"]
    assert "no value above 16, of 255: east 16" in found["dark"]


def test_copies_between_hospitals_and_at_an_unseen_one() -> None:
    """South has 4 of north's images, coast 3 of north's and 2 of south's own."""
    north, south, coast = random_images(20, 0), random_images(20, 10), random_images(20, 20)
    south[:4], coast[:3], coast[4:6] = north[:4], north[10:13], south[10:12]
    found = said(
        hospital("north", 0, train=north),
        hospital("south", 10, train=south),
        hospital("coast", 20, unseen=True, train=coast),
    )
    assert set(found) == {"across", "unseen coast"}
    assert "hospitals that train: 4 (north and south 4)" in found["across"]
    assert (
        "unseen coast that a hospital which trains has too: 5 of 40 (north 3, south 2)"
        in found["unseen coast"]
    )


def test_copies_are_seen_behind_scanners_and_under_another_size() -> None:
    north = random_images(20, 0)
    sites = [hospital("north", 0, train=north), hospital("coast", 20, unseen=True, train=north)]
    sites[1]["scanner"] = [{"kind": "noise", "severity": 3}]
    assert "20 of 40 (north 20)" in said(*sites, size=16)["unseen coast"]


def test_copies_between_the_splits_of_a_hospital() -> None:
    """Two training images are in test, one of them twice; four in val; one val image in test."""
    train, val, test = random_images(20, 0), random_images(10, 1), random_images(10, 2)
    test[0], test[1], test[2] = train[0], train[1], train[1]
    val[:4] = train[4:8]
    test[9] = val[9]
    found = said(hospital("north", 0, train=train, val=val, test=test), hospital("south", 10))
    assert {key: text.split(": ")[1] for key, text in found.items() if " " in key} == {
        "train test": "3 (north 3).",
        "train val": "4 (north 4).",
        "val test": "1 (north 1).",
    }


def test_one_image_with_two_labels() -> None:
    """Images 0 and 1 are of classes 0 and 1; 2 and 4 are both of class 0."""
    train = random_images(20, 0)
    train[1], train[4] = train[0], train[2]
    found = said(hospital("north", 0, train=train))
    assert found == {"labels": "images that stand in the cohort with several labels: 1."}


def test_constant_images_are_no_copies() -> None:
    train, test = random_images(20, 0), random_images(10, 2)
    train[:4], test[:4] = 0, 0
    assert set(said(hospital("north", 0, train=train, test=test))) == {"flat"}


def test_a_hospital_of_one_class_and_a_class_that_nobody_trains() -> None:
    """South holds class 1 alone; of the three named classes nobody has the third."""
    south = hospital("south", 10)
    south["source"] = Arrays(
        random_images(20, 5), [1] * 20, (random_images(9, 6), [1] * 9), (random_images(9, 7), [1] * 9)
    )
    found = said(hospital("north", 0), south, classes=["no", "yes", "maybe"], minimum={"classes": 1})
    assert set(found) == {"single", "untaught"}
    assert "one class alone: south ('yes', 20 images)" in found["single"]
    assert "that no hospital has a training image of: 1 ('maybe')" in found["untaught"]
    alone = said(hospital("north", 0), classes=["no", "yes", "maybe"], minimum={"classes": 1})
    assert alone["untaught"] == "classes without a training image: 1 ('maybe')."


def test_patients_in_two_splits(data_here) -> None:
    """Patients 0 to 4 train, 4 to 6 are tested: one is in both."""
    arrays: dict[str, np.ndarray] = {}
    for i, (split, patients) in enumerate((("train", [0, 1, 2, 3, 4]), ("val", [7]), ("test", [4, 5, 6]))):
        groups = np.repeat(patients, 6)
        arrays |= {
            f"{split}_images": random_images(len(groups), i),
            f"{split}_labels": np.arange(len(groups)) % 2,
        }
        arrays[f"{split}_patients"] = groups
    np.savez(data_here / "set.npz", **arrays)
    found = said({"name": "north", "source": "npz:set.npz"})
    assert list(found) == ["patients train test"]
    assert found["patients train test"].endswith("1 (north 1).")


def test_many_hospitals_are_counted_and_five_named() -> None:
    same = random_images(20, 0)
    found = said(*(hospital(f"h{i}", 10 * i, train=same) for i in range(8)))
    assert "hospitals that train: 20 (h0 and h1 20" in found["across"]
    assert found["across"].endswith("and 2 more).")


def test_what_a_further_seed_adds_says_its_seed() -> None:
    first = {"flat": "three images."}
    assert together(first, {"flat": "two images.", "dark": "dim ones."}, "seed 1") == {
        "flat": "three images.",
        "dark": "seed 1: dim ones.",
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_facts_are_equal_for_equal_pixels_alone(channels: int) -> None:
    images = torch.randint(0, 256, (6, channels, 5, 4), dtype=torch.uint8)
    images[3] = images[0]
    images[4] = images[0]
    images[4, -1, -1, -1] ^= 1
    images[5] = 9
    facts = facts_of(images)
    assert len(facts.digests) == 6
    assert len(set(facts.digests)) == 5
    assert facts.digests[3] == facts.digests[0]
    assert facts.flat.tolist() == [False] * 5 + [True]
    assert facts.highest.tolist() == [int(image.max()) for image in images]
    assert facts_of(images[:0]).digests == ()
