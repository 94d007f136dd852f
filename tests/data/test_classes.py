"""Sites of one source with classes of their own: lists, disjoint groups, and a default skew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedmerge.data import Arrays, Cohort, CohortSpec, build_cohort
from fedmerge.schema.validation import validate
from tests.facts import refused


def numbered(n: int = 200, n_classes: int = 4, **more: Any) -> Arrays:
    """n images whose first pixel is their number, classes in turn."""
    images = np.zeros((n, 8, 8), np.uint8)
    images[:, 0, 0] = np.arange(n)
    return Arrays(images, np.arange(n) % n_classes, **more)


def spec(**fields: Any) -> CohortSpec:
    return validate(CohortSpec, {"name": "test", **fields}, "test.yaml")


def sites(*names: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"name": name, **fields} for name in names]


def same(a: Cohort, b: Cohort) -> bool:
    pairs = zip(a.sites, b.sites, strict=True)
    return all(torch.equal(x.everything.images, y.everything.images) for x, y in pairs)


def test_sites_take_the_classes_they_list() -> None:
    """50 images a class. a takes "0" and half of 1 (15 + 5 + 5 by split), c the other half; b the rest."""
    three = [{"name": "a", "classes": ["0", 1]}, {"name": "b"}, {"name": "c", "classes": [1]}]
    cohort = build_cohort(spec(source=numbered(), sites=three, minimum={"classes": 1}), seed=2)
    counts = [cohort[name].everything.class_counts(4).tolist() for name in "abc"]
    assert counts == [[50, 25, 0, 0], [0, 0, 50, 50], [0, 25, 0, 0]]
    every = [n for site in cohort.sites for n in site.everything.images[:, 0, 0, 0].tolist()]
    assert sorted(every) == list(range(200))


def test_disjoint_sites_have_classes_of_their_own_and_the_unseen_one_all() -> None:
    """Ten classes over three sites: groups of 4, 3 and 3; of each class (20 images) half is the unseen's."""
    three = [*sites("a", "b", "c"), *sites("far", unseen=True)]
    fields = {"source": numbered(200, n_classes=10), "sites": three, "label_skew": "disjoint"}
    cohort = build_cohort(spec(**fields), seed=0)
    counts = {site.name: site.everything.class_counts(10) for site in cohort.sites}
    assert counts["far"].tolist() == [10] * 10
    assert sorted(int((counts[name] > 0).sum()) for name in "abc") == [3, 3, 4]
    assert (counts["a"] + counts["b"] + counts["c"]).tolist() == [10] * 10
    other = build_cohort(spec(**fields), seed=1)["a"].everything.class_counts(10)
    assert ((other > 0) != (counts["a"] > 0)).any()


def test_disjoint_sites_need_enough_classes() -> None:
    fields = {"source": numbered(n_classes=2), "sites": sites("a", "b", "c"), "label_skew": "disjoint"}
    with refused("3 sites", "2 classes"):
        build_cohort(spec(**fields), seed=0)


def test_the_cohort_s_label_skew_is_the_default_of_sites_that_train() -> None:
    apart = [
        {"name": "a", "label_skew": 0.5},
        {"name": "b", "label_skew": 0.5},
        {"name": "c", "unseen": True},
    ]
    alike = [{"name": "a"}, {"name": "b"}, {"name": "c", "unseen": True}]
    one = build_cohort(spec(source=numbered(), sites=apart), seed=3)
    two = build_cohort(spec(source=numbered(), sites=alike, label_skew=0.5), seed=3)
    assert same(one, two)
    assert not same(one, build_cohort(spec(source=numbered(), sites=alike), seed=3))


def test_classes_of_nobody_and_unknown_classes_are_sentences() -> None:
    two = [{"name": "a", "classes": [0, 1]}, {"name": "b", "classes": [2]}]
    with refused("50 images", "'3'", "b"):
        build_cohort(spec(source=numbered(), sites=two), seed=0)
    with refused("50 images", "'0'"):
        build_cohort(spec(source=numbered(), sites=sites("alone", classes=[1, 2, 3])), seed=0)
    with refused("'a'", 4, 0, 3, "labels"):
        build_cohort(spec(source=numbered(), sites=sites("a", classes=[4])), seed=0)
    named = numbered(class_names=("cat", "dog", "horse", "house"))
    with refused("hors", "horse"):
        build_cohort(spec(source=named, sites=sites("a", classes=["hors"])), seed=0)


def test_a_class_without_images_needs_no_taker() -> None:
    two = [{"name": "a", "classes": [0, 1]}, {"name": "b", "classes": [2, 3]}]
    five = ["v", "w", "x", "y", "z"]
    cohort = build_cohort(spec(source=numbered(), sites=two, classes=five), seed=0)
    assert cohort["a"].everything.class_counts(5).tolist() == [50, 50, 0, 0, 0]


def test_the_minimum_of_classes_still_holds() -> None:
    two = [{"name": "a", "classes": [0]}, {"name": "b"}]
    with refused("'a'", "1 classes", "test"):
        build_cohort(spec(source=numbered(), sites=two), seed=0)


def labelled(*labels: int, **more: Any) -> dict[str, Any]:
    """A hospital with 30 images of each of these labels."""
    given = np.repeat(labels, 30)
    images = np.random.default_rng(len(labels)).integers(0, 256, (len(given), 8, 8), dtype=np.uint8)
    return {"name": f"h{labels[0]}", "source": Arrays(images, given), **more}


@pytest.mark.parametrize(
    ("hospitals", "words"),
    [
        ([labelled(1, 2, 3)], (1, "4 classes", 0)),
        ([labelled(0, 1, 1_000_000)], ("999,998", "1,000,001 classes", 2, 3, 4, 5, 6, "999,993")),
        ([labelled(0, 1, 10**12)], ("999,999,999,998", "1,000,000,000,001 classes")),
        ([labelled(0, 1), labelled(1, 3)], ("'h0'", "2 classes", "'h1'", 4, "classes:")),
        ([labelled(0, 1, 3), labelled(2, 3, unseen=True)], (1, "4 classes", 2)),
    ],
)
def test_a_class_that_no_hospital_trains_is_refused(
    hospitals: list[dict[str, Any]], words: tuple[object, ...]
) -> None:
    """A label that is skipped, one that is absurd, and a class that the unseen hospital alone has."""
    with refused(*words):
        build_cohort(spec(sites=hospitals), seed=0)


def test_a_class_that_no_hospital_trains_may_be_named() -> None:
    four = ["none", "a", "b", "c"]
    cohort = build_cohort(spec(sites=[labelled(1, 2, 3)], classes=four), seed=0)
    assert cohort["h1"].everything.class_counts(4).tolist() == [0, 30, 30, 30]
    with refused("3 classes", 0, 2):
        build_cohort(spec(sites=[labelled(1, 2, 3)], classes=four[:3]), seed=0)


def test_names_of_a_source_do_not_stand_for_images() -> None:
    """Its own names say four classes, its training images are of two; a list may leave one to the unseen."""
    named = numbered(n_classes=2, class_names=("cat", "dog", "horse", "house"))
    with refused(2, "4 classes", "horse", "house"):
        build_cohort(spec(source=named, sites=sites("a")), seed=0)
    lists = [{"name": "a", "classes": [0, 1]}, {"name": "b", "classes": [2, 3], "unseen": True}]
    with refused(2, "4 classes", 3):
        build_cohort(spec(source=numbered(), sites=lists), seed=0)


def test_a_limit_that_happens_to_drop_a_class_is_no_fault_of_the_labels() -> None:
    """10 images of 10 classes: some class is missing, and which one hangs on the seed."""
    limited = [{"name": "a", "limit": 10}]
    cohort = build_cohort(spec(source="digits", sites=limited), seed=0)
    assert (cohort["a"].train.class_counts(10) == 0).any()
