"""Images to fuse with: balanced, seeded, from the right place, and never those that are measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedmerge.data import Arrays, Cohort, CohortSpec, FusionData, build_cohort
from fedmerge.data.cohort.fusion import balanced, portions, server_set, share
from fedmerge.schema.validation import validate
from tests.facts import refused

Writer = Callable[..., Path]


def fusion(**fields: Any) -> FusionData:
    return validate(FusionData, fields, "fusion_data")


def cohort_of(**fields: Any) -> Cohort:
    return build_cohort(validate(CohortSpec, {"name": "test", **fields}, "test.yaml"), seed=0)


@pytest.fixture
def ward() -> Cohort:
    """One site with 120 images of three classes, 60/20/20; the first pixel of image n is n."""
    images = np.zeros((120, 8, 8), np.uint8)
    images[:, 0, 0] = np.arange(120)
    return cohort_of(source=Arrays(images, np.arange(120) % 3), sites=[{"name": "ward"}])


# --- what is written


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"from": "server"}, ("server", "fusion_data", "source", "needs")),
        (
            {"from": "server", "source": "digits", "sites": ["a"]},
            ("hospitals", "fusion_data", "give", "says", "what", "sites"),
        ),
        (
            {"from": "server", "source": "digits", "split": "val"},
            ("hospitals", "fusion_data", "give", "says", "split"),
        ),
        ({"from": "server", "source": "digit"}, ("digits", "fusion_data", "source")),
        ({"from": "union", "source": "digits"}, ("server", "fusion_data", "union", "source")),
        ({"from": "unoin"}, ("from", "unoin", "union")),
        ({"from": "union", "split": "test"}, ("split", "test", "val", "train")),
        ({"from": "union", "images": 0}, ("images", "fusion_data", "given: 0")),
        ({"from": "union", "sites": ["a", "a"]}, ("listed", "fusion_data")),
        ({"from": "union", "image": 3}, ("images", "fusion_data", "image")),
        ({"images": 3}, ("from", "fusion_data", "missing")),
    ],
)
def test_a_wrong_section_is_a_sentence(fields: dict[str, Any], words: tuple[object, ...]) -> None:
    with refused(*words):
        fusion(**fields)


def test_it_is_written_as_it_is_read() -> None:
    for fields in (
        {"from": "server", "images": 400, "source": "digits"},
        {"from": "union", "images": 10, "split": "train"},
        {"from": "hospitals", "images": 400, "split": "val", "sites": ["a"]},
    ):
        data = fusion(**fields)
        assert data.model_dump(mode="json") == fields
        assert fusion(**data.model_dump(mode="json")) == data


# --- drawing


@settings(max_examples=60)
@given(labels=st.lists(st.integers(0, 3), max_size=40), count=st.integers(0, 45), seed=st.integers(0, 9))
def test_a_balanced_draw_takes_from_a_class_only_what_the_others_take_too(
    labels: list[int], count: int, seed: int
) -> None:
    """Of n_c samples of class c, k_c are drawn: k_c >= max k - 1 unless the class is used up, k_c = n_c."""
    given_labels = np.array(labels, dtype=np.int64)
    index = balanced(given_labels, count, np.random.default_rng(seed))
    assert len(set(index.tolist())) == len(index) == min(count, len(labels))
    held, drawn = (np.bincount(x, minlength=4) for x in (given_labels, given_labels[index]))
    assert all(k >= drawn.max() - 1 or k == n for k, n in zip(drawn, held, strict=True))


def test_a_smaller_draw_is_part_of_a_larger_one_and_the_seed_decides() -> None:
    labels = np.arange(60) % 4
    first, more, other = (
        balanced(labels, n, np.random.default_rng(s)).tolist() for n, s in ((10, 0), (30, 0), (30, 1))
    )
    assert more[:10] == first
    assert more != other


def test_a_share_is_of_one_split_and_of_its_site(ward: Cohort) -> None:
    """12 of 24 validation images of three classes: four each; 100 wanted: all 24."""
    site = ward["ward"]
    val, train = share(site, 12, "val", 0), share(site, 12, "train", 0)
    pixels = {name: set(getattr(site, name).images[:, 0, 0, 0].tolist()) for name in ("train", "val")}
    assert set(val.images[:, 0, 0, 0].tolist()) <= pixels["val"]
    assert set(train.images[:, 0, 0, 0].tolist()) <= pixels["train"]
    assert val.class_counts(3).tolist() == [4, 4, 4]
    assert (val.images[:, 0, 0, 0] % 3).tolist() == val.labels.tolist()
    assert len(share(site, 100, "val", 0)) == 24
    assert torch.equal(val.images, share(site, 12, "val", 0).images)
    assert not torch.equal(val.images, share(site, 12, "val", 1).images)


def test_portions_are_equal_to_one_and_sum_up() -> None:
    assert portions(fusion(**{"from": "union", "images": 10}), ["a", "b", "c"]) == {"a": 4, "b": 3, "c": 3}
    assert portions(fusion(**{"from": "union", "images": 2}), ["a", "b", "c"]) == {"a": 1, "b": 1}


def test_a_hospital_is_asked_for_the_same_images_whoever_else_takes_part() -> None:
    """Sums over 134 images of a hospital in one fusion and 133 in the next would be sums over one."""
    data = fusion(**{"from": "hospitals", "images": 400})
    found = [portions(data, sites) for sites in (["a", "b", "c"], ["b", "c", "d"], ["c", "a", "d"])]
    assert {n for asked in found for n in asked.values()} == {133}
    assert portions(fusion(**{"from": "hospitals", "images": 2}), ["a", "b", "c"]) == {}


# --- the server's own


def test_the_server_s_images_are_as_the_cohort_s(write_npz: Writer) -> None:
    write_npz("public.npz", n=30, n_classes=2)
    cohort = cohort_of(source="digits", size=12, channels=3, sites=[{"name": "a"}])
    data = fusion(**{"from": "server", "source": "npz:public.npz", "images": 11})
    drawn = server_set(data, cohort, seed=0)
    assert drawn.images.shape == (11, 3, 12, 12)
    assert sorted(drawn.class_counts(2).tolist()) == [5, 6]
    assert torch.equal(drawn.images, server_set(data, cohort, seed=0, labelled=False).images)
    assert len(server_set(data.model_copy(update={"images": 99}), cohort, seed=0)) == 30


def test_images_that_are_measured_on_are_refused(write_npz: Writer) -> None:
    path = write_npz("ward.npz", n=30)
    cohort = cohort_of(source="npz:ward.npz", sites=[{"name": "a"}])
    data = fusion(**{"from": "server", "source": f"npz:{path}"})
    with refused("'a'", "come", "fusion_data.source"):
        server_set(data, cohort, seed=0)


def test_images_that_are_measured_on_are_refused_in_another_size(write_npz: Writer) -> None:
    write_npz("breastmnist.npz", n=30)
    write_npz("breastmnist_64.npz", n=30)
    cohort = cohort_of(source="medmnist:breastmnist", sites=[{"name": "a"}])
    data = fusion(**{"from": "server", "source": "medmnist:breastmnist_64"})
    with refused("'a'", "come", "fusion_data.source"):
        server_set(data, cohort, seed=0)


def test_labels_have_to_fit_only_where_they_are_used(write_npz: Writer, data_here: Path) -> None:
    write_npz("ward.npz", n=30)
    write_npz("three.npz", n=30, n_classes=3)
    write_npz("breastmnist.npz", n=30)
    cohort = cohort_of(source="npz:ward.npz", classes=["no", "yes"], sites=[{"name": "a"}])
    for source, words in (
        ("npz:three.npz", ("fusion_data", "source", "npz:three.npz", "2 classes")),
        ("medmnist:breastmnist", ("yes", "fusion_data.source")),
    ):
        data = fusion(**{"from": "server", "source": source, "images": 6})
        with refused(*words):
            server_set(data, cohort, seed=0)
        assert len(server_set(data, cohort, seed=0, labelled=False)) == 6


def test_folders_of_images_are_matched_by_name(write_npz: Writer, data_here: Path) -> None:
    """Folders in sorted order are apple 0, pear 1; the cohort calls pear 0 and apple 1."""
    write_npz("ward.npz", n=30)
    for value, name in ((10, "apple"), (200, "pear")):
        (data_here / "public" / name).mkdir(parents=True)
        for j in range(20):
            Image.new("L", (9, 9), value + j).save(data_here / "public" / name / f"{j}.png")
    cohort = cohort_of(source="npz:ward.npz", classes=["pear", "apple"], sites=[{"name": "a"}])
    data = fusion(**{"from": "server", "source": "folder:public", "images": 8})
    drawn = server_set(data, cohort, seed=0)
    assert ((drawn.images[:, 0, 0, 0] < 100).long() == drawn.labels).all()
    assert drawn.class_counts(2).tolist() == [4, 4]
