from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fedmerge.data import Arrays, CohortSpec, build_cohort
from fedmerge.data.cohort.cohort import Cohort
from fedmerge.schema.validation import validate
from tests.facts import refused

Writer = Callable[..., Path]


def numbered(n: int = 200, n_classes: int = 4, side: int = 8, **more: Any) -> Arrays:
    """n images whose first two pixels spell their number in base 256, classes in turn."""
    number = np.arange(n)
    images = np.zeros((n, side, side), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = number // 256, number % 256
    return Arrays(images, number % n_classes, **more)


def numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1]).tolist()


def spec(**fields: Any) -> CohortSpec:
    return validate(CohortSpec, {"name": "test", **fields}, "test.yaml")


def sites(*names: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"name": name, **fields} for name in names]


def same(a: Cohort, b: Cohort) -> bool:
    pairs = zip(a.sites, b.sites, strict=True)
    return all(
        torch.equal(x.everything.images, y.everything.images)
        and torch.equal(x.everything.labels, y.everything.labels)
        for x, y in pairs
    )


# --- building


def test_sites_of_one_source_divide_it_without_loss_or_overlap() -> None:
    cohort = build_cohort(spec(source=numbered(), sites=sites("a", "b", "c", label_skew=2.0)), seed=3)
    every = [number for site in cohort.sites for number in numbers(site.everything.images)]
    assert sorted(every) == list(range(200))
    for site in cohort.sites:
        assert site.everything.labels.tolist() == [n % 4 for n in numbers(site.everything.images)]


def test_a_site_alone_on_its_source_gets_all_of_it() -> None:
    first, second = numbered(100), numbered(60)
    a, b = sites("a", source=first, label_skew=0.1, share=0.01), sites("b", source=second)
    cohort = build_cohort(spec(sites=a + b), seed=0)
    assert [len(site.everything) for site in cohort.sites] == [100, 60]


def test_the_splits_of_a_site_share_its_prevalence() -> None:
    """Train has 240 samples of each of 4 classes, val and test 80: a third, each rounded by under one."""
    cohort = build_cohort(spec(source=numbered(1600), sites=sites("a", "b", label_skew=1.0)), seed=1)
    for site in cohort.sites:
        train, val, test = (s.class_counts(4).double() for s in (site.train, site.val, site.test))
        assert ((train / 3 - val).abs() < 4 / 3).all()
        assert ((train / 3 - test).abs() < 4 / 3).all()


def test_share_is_quantity_skew() -> None:
    """Without label skew, shares 1 and 3 of 30 training samples of each class: 7 or 8, and 22 or 23."""
    two = [{"name": "a"}, {"name": "b", "share": 3.0}]
    cohort = build_cohort(spec(source=numbered(200), sites=two), seed=0)
    assert all(7 <= n <= 8 for n in cohort["a"].train.class_counts(4).tolist())
    assert all(22 <= n <= 23 for n in cohort["b"].train.class_counts(4).tolist())


def test_limit_draws_training_images_only() -> None:
    cohort = build_cohort(spec(source=numbered(), sites=sites("a", limit=25)), seed=0)
    site = cohort["a"]
    assert (len(site.train), len(site.val), len(site.test)) == (25, 40, 40)
    other = build_cohort(spec(source=numbered(), sites=sites("a", limit=25)), seed=1)["a"]
    assert numbers(site.train.images) != numbers(other.train.images)


def test_the_seed_decides_the_cohort() -> None:
    fields = sites("a", "b", label_skew=1.0, scanner=[{"kind": "noise", "severity": 1}])
    one = spec(source="digits", sites=fields)
    assert same(build_cohort(one, 5), build_cohort(one, 5))
    assert not same(build_cohort(one, 5), build_cohort(one, 6))


def test_one_file_named_twice_is_divided_not_doubled(write_npz: Writer) -> None:
    path = write_npz("breastmnist.npz", n=60)
    forms = ["medmnist:breastmnist", "npz:breastmnist.npz", f"npz:{path}"]
    three = [{"name": f"s{i}", "source": form} for i, form in enumerate(forms)]
    cohort = build_cohort(spec(sites=three), seed=0)
    assert sum(len(site.everything) for site in cohort.sites) == 180


def test_size_channels_and_properties() -> None:
    fields = sites("a", "b") + sites("c", unseen=True)
    cohort = build_cohort(spec(source="digits", size=12, channels=3, sites=fields), seed=0)
    assert cohort.shape == (3, 12, 12)
    assert cohort.title == cohort.name == "test"
    assert [s.name for s in cohort.training] == ["a", "b"]
    assert [s.name for s in cohort.unseen] == ["c"]
    assert cohort.n_classes == cohort["a"].n_classes == 10
    assert cohort["a"].source == "digits"
    assert len(cohort["c"].everything) == sum(
        map(len, (cohort["c"].train, cohort["c"].val, cohort["c"].test))
    )


def test_the_scanner_changes_images_and_nothing_else() -> None:
    look = [{"kind": "contrast", "severity": 4}]
    plain = build_cohort(spec(source="digits", sites=sites("a", "b")), seed=0)
    shifted = build_cohort(spec(source="digits", sites=sites("a", scanner=look) + sites("b")), seed=0)
    assert torch.equal(plain["a"].train.labels, shifted["a"].train.labels)
    assert not torch.equal(plain["a"].train.images, shifted["a"].train.images)
    assert torch.equal(plain["b"].train.images, shifted["b"].train.images)
    assert shifted["a"].scanner[0].kind == "contrast"


# --- classes


def picture_folder(root: Path, name: str, classes: list[str]) -> str:
    for i, label in enumerate(classes):
        (root / name / label).mkdir(parents=True)
        for j in range(20):
            Image.new("L", (8, 8), 100 * i + j).save(root / name / label / f"{j}.png")
    return f"folder:{name}"


def test_folders_are_matched_by_class_name(data_here: Path) -> None:
    """The second hospital has no 'cyst', so its folders 'mass' and 'normal' are labels 1 and 2."""
    first = picture_folder(data_here, "one", ["cyst", "mass", "normal"])
    second = picture_folder(data_here, "two", ["mass", "normal"])
    both = [{"name": "a", "source": first}, {"name": "b", "source": second}]
    cohort = build_cohort(spec(sites=both, classes=["cyst", "mass", "normal"]), seed=0)
    assert cohort["b"].everything.class_counts(3).tolist() == [0, 20, 20]
    dark = cohort["b"].everything.images[:, 0, 0, 0] < 100
    assert (cohort["b"].everything.labels[dark] == 1).all()
    with refused("'a'", "3 classes", "'b'", 2, "classes:"):
        build_cohort(spec(sites=both), seed=0)
    with refused("mass", "masses"):
        build_cohort(spec(sites=both, classes=["cyst", "masses", "normal"]), seed=0)


def test_differing_class_names_must_be_settled() -> None:
    a = sites("a", source=numbered(n_classes=2, class_names=("no", "yes")))
    b = sites("b", source=numbered(n_classes=2, class_names=("healthy", "ill")))
    with refused("yes", "healthy", "ill", "classes:"):
        build_cohort(spec(sites=a + b), seed=0)
    cohort = build_cohort(spec(sites=a + b, classes=["healthy", "ill"]), seed=0)
    assert cohort.class_names == ("healthy", "ill")


def test_unnamed_classes_take_the_names_another_source_has() -> None:
    a, b = (
        sites("a", source=numbered(n_classes=2)),
        sites("b", source=numbered(n_classes=2, class_names=("x", "y"))),
    )
    assert build_cohort(spec(sites=a + b), seed=0).class_names == ("x", "y")
    assert build_cohort(spec(sites=a), seed=0).class_names == ("0", "1")


def test_a_label_beyond_the_named_classes_is_a_sentence() -> None:
    with refused("'a'", "2 classes"):
        build_cohort(spec(source=numbered(n_classes=3), sites=sites("a"), classes=["x", "y"]), seed=0)


# --- refusals


def test_differing_shapes_ask_for_size_and_channels() -> None:
    small, large = sites("a", source=numbered(side=8)), sites("b", source=numbered(side=9))
    with refused("'a'", "8 x 8", "'b'", "9 x 9", "size:"):
        build_cohort(spec(sites=small + large), seed=0)
    assert build_cohort(spec(sites=small + large, size=8), seed=0).shape == (1, 8, 8)
    rgb = sites("b", source=Arrays(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4))
    with refused("'a'", "'b'", "RGB", "channels:"):
        build_cohort(spec(sites=small + rgb), seed=0)
    assert build_cohort(spec(sites=small + rgb, channels=1), seed=0).shape == (1, 8, 8)


def test_too_few_samples_or_classes_say_what_to_change() -> None:
    tight = sites("a") + sites("b", share=0.001)
    with refused("'b'", 0, "0.001", "raise"):
        build_cohort(spec(source=numbered(), sites=tight), seed=0)
    one_class = numbered(50, n_classes=1)
    with refused("1 classes", "{classes: 1}", "test", "every"):
        build_cohort(spec(source=one_class, sites=sites("a"), classes=["x", "y"]), seed=0)
    lowered = spec(source=one_class, sites=sites("a"), classes=["x", "y"], minimum={"classes": 1})
    assert len(build_cohort(lowered, seed=0)["a"].train) == 30


def test_an_empty_validation_split_is_refused() -> None:
    full, none = numbered(40), (np.zeros((0, 8, 8), np.uint8), np.zeros(0, int))
    pair = (full.images, full.labels)
    with refused("'a'", "gets", "test", "val"):
        build_cohort(spec(source=Arrays(*pair, val=none, test=pair), sites=sites("a")), seed=0)


def test_an_unknown_site_names_the_nearest() -> None:
    with refused("north", "nort"):
        build_cohort(spec(source=numbered(), sites=sites("north", "south")), seed=0)["nort"]


def test_a_remote_site_has_a_name_and_no_image_and_leaves_the_others_as_they_are():
    """Two share a source; a third is remote: the two are as without it, and the third has their shape."""
    shared = numbered()
    two = build_cohort(spec(source=shared, sites=sites("a", "b")), seed=3)
    three = build_cohort(spec(sites=[*sites("a", "b", source=shared), *sites("c", source="remote")]), seed=3)
    assert [site.remote for site in three.sites] == [False, False, True]
    assert all(three[name].train.images.equal(two[name].train.images) for name in ("a", "b"))
    assert [len(split) for split in (three["c"].train, three["c"].val, three["c"].test)] == [0, 0, 0]
    assert three["c"].train.images.shape[1:] == three["a"].train.images.shape[1:]
    assert three["c"].class_names == three["a"].class_names
    assert three.here("a") is three["a"]
    with refused("'c'", "hospital"):
        three.here("c")


def test_where_every_site_is_remote_the_file_says_what_the_images_are_like():
    remote = {"source": "remote", "sites": sites("a", "b")}
    cohort = build_cohort(spec(**remote, size=16, channels=3, classes=["no", "yes"]), seed=0)
    assert (cohort.shape, cohort.class_names) == ((3, 16, 16), ("no", "yes"))
    with refused("classes:", "test", "which"):
        build_cohort(spec(**remote, size=16, channels=3), seed=0)
    with refused("size:", "test", "channels"):
        build_cohort(spec(**remote, classes=["no", "yes"], size=16), seed=0)


def test_what_a_remote_hospital_does_with_its_images_is_said_in_its_own_file():
    with refused("'a'", "remote", "label_skew", "limit"):
        spec(sites=sites("a", source="remote", limit=20, label_skew=1.0))
