"""Advice on a hospital with too few images can be followed, and then it is enough."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.sources.sources import Arrays
from fedmerge.errors import FedMergeError


def arrays(train: list[int], val: list[int], test: list[int]) -> Arrays:
    """Grey images, so many of each class in each split."""

    def split(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(counts)), counts)
        return np.zeros((len(labels), 8, 8), dtype=np.uint8), labels

    return Arrays(*split(train), val=split(val), test=split(test))


def cohort(count: int, source: Any, **fields: Any) -> CohortSpec:
    sites = [{"name": f"s{i}", "unseen": i == count - 1} for i in range(count)]
    return CohortSpec.model_validate({"name": "many", "source": source, "sites": sites} | fields)


def refused(spec: CohortSpec, seed: int = 0) -> tuple[str, ...]:
    with pytest.raises(FedMergeError) as caught:
        build_cohort(spec, seed)
    return caught.value.args


def test_sixty_hospitals_of_digits_are_told_how_many_the_source_feeds():
    sentences = refused(cohort(60, "digits"))
    numbers = {int(re.search(r"use at most (\d+) of the 60 sites", each)[1]) for each in sentences}
    (most,) = numbers
    assert not any("share" in each or "skew" in each for each in sentences)
    assert len(build_cohort(cohort(most, "digits"), 0).sites) == most


def test_the_number_of_sites_is_what_the_classes_allow():
    """Validation images are the tightest: 7 of the larger class, so 7 sites get one each."""
    source = arrays([40, 40], [7, 3], [8, 8])
    sentences = refused(cohort(11, source))
    assert all("use at most 7 of the 11 sites" in each for each in sentences)
    build_cohort(cohort(7, source), 0)


def test_every_site_without_enough_is_named_at_once():
    """7 and 3 validation images of two classes go to the first 7 and the first 3 of 11 equal sites."""
    sentences = refused(cohort(11, arrays([40, 40], [7, 3], [11, 11]), minimum={"samples": 1, "classes": 1}))
    assert [re.search(r"site '(\w+)' gets no val", each)[1] for each in sentences] == [
        "s7",
        "s8",
        "s9",
        "s10",
    ]


def test_a_tiny_dirichlet_is_told_to_be_larger_and_not_to_lower_what_is_lowest():
    spec = cohort(
        4, arrays([40, 40], [20, 20], [20, 20]), label_skew=0.001, minimum={"samples": 1, "classes": 1}
    )
    text = " ".join(refused(spec))
    assert "raise the cohort's label_skew, which is 0.001" in text
    assert "minimum: {" not in text
    assert "share" not in text
    build_cohort(cohort(4, arrays([40, 40], [20, 20], [20, 20]), label_skew=100.0), 0)


def test_one_class_is_told_the_minimum_that_is_below_the_present_one():
    spec = cohort(3, arrays([40, 40], [20, 20], [20, 20]), label_skew="disjoint")
    text = " ".join(refused(spec))
    assert "training samples of 1 classes, fewer than minimum classes 2" in text
    lower = {"classes": int(re.search(r"minimum: \{classes: (\d)\}", text)[1])}
    build_cohort(cohort(3, arrays([40, 40], [20, 20], [20, 20]), label_skew="disjoint", minimum=lower), 0)


@pytest.mark.parametrize(
    ("site", "words", "not_words"),
    [
        ({"limit": 5}, "raise its limit to at least 10", "share"),
        ({"classes": [0]}, "list more classes for it", "skew"),
        ({"share": 0.01}, "raise its share above 0.01", "skew"),
        ({"label_skew": 1e-4}, "raise its label_skew, which is 0.0001", "share"),
    ],
)
def test_the_advice_is_about_what_is_the_cause(site, words, not_words):
    sites = [{"name": "a"} | site, {"name": "b", "classes": [1, 2]} if "classes" in site else {"name": "b"}]
    sites.append({"name": "c", "unseen": True})
    spec = CohortSpec.model_validate(
        {"name": "x", "source": arrays([40, 40, 40], [20, 20, 20], [20, 20, 20]), "sites": sites}
        | ({"minimum": {"samples": 40, "classes": 3}} if "limit" not in site else {})
    )
    (about_a, *_) = (each for each in refused(spec) if "site 'a'" in each)
    assert words in about_a
    assert not_words not in about_a


def test_a_site_alone_on_its_source_needs_more_images():
    spec = CohortSpec.model_validate(
        {
            "name": "x",
            "sites": [
                {"name": "a", "source": arrays([4, 4], [4, 4], [4, 4])},
                {"name": "b", "source": arrays([9, 9], [4, 4], [0, 0]), "unseen": True},
            ],
        }
    )
    few, none = refused(spec)
    assert "site 'a' gets 8 training samples" in few
    assert few.endswith(
        "give its source more images, of every class or lower the cohort's minimum: {samples: 8}."
    )
    assert none.endswith("site 'b' gets no test samples: give its source more images, of every class.")


def test_every_source_that_is_missing_is_named_at_once(tmp_path):
    sites = [{"name": name, "source": f"npz:{name}.npz"} for name in ("a", "b")]
    sites.append({"name": "c", "source": f"npz:{'x' * 5000}.npz", "unseen": True})
    sentences = refused(CohortSpec.model_validate({"name": "x", "sites": sites}))
    assert ["a.npz" in sentences[0], "b.npz" in sentences[1], len(sentences)] == [True, True, 3]
    assert len(sentences[2]) < 1000
