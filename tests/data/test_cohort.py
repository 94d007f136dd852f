from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedmerge.data import Arrays, CohortSpec, SiteSpec, build_cohort, cohort_names, read_cohort
from fedmerge.data.cohort import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.validation import validate

Writer = Callable[..., Path]
SHIPPED = [
    "breast",
    "digits-domains",
    "digits-scanners",
    "pacs32",
    "pacs96",
    "pneumonia",
    "pneumonia-pair",
    "pneumonia-scanners",
    "retina",
    "wbc-labs",
]


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
    with pytest.raises(FedMergeError, match=r"'a' has 3 classes and site 'b' has 2: set classes:"):
        build_cohort(spec(sites=both), seed=0)
    with pytest.raises(FedMergeError, match=r"folder 'mass'.*Did you mean 'masses'"):
        build_cohort(spec(sites=both, classes=["cyst", "masses", "normal"]), seed=0)


def test_differing_class_names_must_be_settled() -> None:
    a = sites("a", source=numbered(n_classes=2, class_names=("no", "yes")))
    b = sites("b", source=numbered(n_classes=2, class_names=("healthy", "ill")))
    with pytest.raises(FedMergeError, match=r"no, yes.*healthy, ill: set classes:"):
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
    with pytest.raises(FedMergeError, match=r"site 'a'.*label 2 lies outside the 2 classes"):
        build_cohort(spec(source=numbered(n_classes=3), sites=sites("a"), classes=["x", "y"]), seed=0)


# --- refusals


def test_differing_shapes_ask_for_size_and_channels() -> None:
    small, large = sites("a", source=numbered(side=8)), sites("b", source=numbered(side=9))
    with pytest.raises(FedMergeError, match=r"'a' are 8 x 8 px.*'b' 9 x 9 px: set size:"):
        build_cohort(spec(sites=small + large), seed=0)
    assert build_cohort(spec(sites=small + large, size=8), seed=0).shape == (1, 8, 8)
    rgb = sites("b", source=Arrays(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4))
    with pytest.raises(FedMergeError, match=r"'a' are grey.*'b' RGB: set channels:"):
        build_cohort(spec(sites=small + rgb), seed=0)
    assert build_cohort(spec(sites=small + rgb, channels=1), seed=0).shape == (1, 8, 8)


def test_too_few_samples_or_classes_say_what_to_change() -> None:
    tight = sites("a") + sites("b", share=0.001)
    with pytest.raises(FedMergeError, match=r"site 'b' gets 0 training samples.*share.*minimum:"):
        build_cohort(spec(source=numbered(), sites=tight), seed=0)
    one_class = numbered(50, n_classes=1)
    with pytest.raises(FedMergeError, match=r"of 1 classes.*label_skew.*minimum: \{classes: 1\}"):
        build_cohort(spec(source=one_class, sites=sites("a"), classes=["x", "y"]), seed=0)
    lowered = spec(source=one_class, sites=sites("a"), classes=["x", "y"], minimum={"classes": 1})
    assert len(build_cohort(lowered, seed=0)["a"].train) == 30


def test_an_empty_validation_split_is_refused() -> None:
    full, none = numbered(40), (np.zeros((0, 8, 8), np.uint8), np.zeros(0, int))
    pair = (full.images, full.labels)
    with pytest.raises(FedMergeError, match="'a' gets no val samples"):
        build_cohort(spec(source=Arrays(*pair, val=none, test=pair), sites=sites("a")), seed=0)


def test_an_unknown_site_names_the_nearest() -> None:
    with pytest.raises(FedMergeError, match="Did you mean 'north'"):
        build_cohort(spec(source=numbered(), sites=sites("north", "south")), seed=0)["nort"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sites": sites("a", "a", source="digits")}, "two sites are named 'a'"),
        ({"sites": sites("a")}, "site 'a' has no source"),
        ({"sites": sites("a", source="digits", unseen=True)}, "at least one must train"),
        ({"sites": []}, "field 'sites'"),
        ({"sites": sites("../a", source="digits")}, r"field 'sites\[0\].name'"),
        ({"sites": sites("a", source="digit")}, r"field 'sites\[0\].source'.*Did you mean 'digits'"),
        (
            {"sites": sites("a", lable_skew=1)},
            r"unknown field 'sites\[0\].lable_skew'. Did you mean 'label_skew'",
        ),
        (
            {"sites": sites("a", label_skew=0)},
            r"'sites\[0\].label_skew' should be greater than 0 \(given: 0\)",
        ),
        ({"sites": sites("a", share=float("inf"))}, r"'sites\[0\].share' should be a finite number"),
        ({"sites": sites("a", limit=0)}, r"'sites\[0\].limit'"),
        (
            {"sites": sites("a", scanner=[{"kind": "blurr", "severity": 1}])},
            r"scanner\[0\].kind.*mean 'blur'",
        ),
        ({"sites": sites("a", scanner=[{"kind": "blur"}])}, r"'sites\[0\].scanner\[0\].severity' is missing"),
        ({"source": "digits", "sites": sites("a"), "channels": 2}, "'channels' cannot be 2. Allowed: 1, 3"),
        ({"source": "digits", "sites": sites("a"), "classes": ["x", "x"]}, "classes repeat a name"),
        (
            {"source": "digits", "sites": sites("a"), "minimum": {"sample": 3}},
            "mean 'samples'. Allowed: classes,",
        ),
        ({"source": "digits", "sites": sites("a"), "siez": 16}, "unknown field 'siez'. Did you mean 'size'"),
    ],
)
def test_a_wrong_specification_is_a_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(FedMergeError, match=words) as caught:
        spec(**fields)
    assert str(caught.value).startswith("test.yaml: ")


# --- reading

YAML = "source: npz:set.npz\nsites:\n  - {name: north}\n"


def test_a_cohort_is_found_by_path_near_the_configuration_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("configs", "sites", "work/sites"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "near.yaml").write_text(YAML)
    (tmp_path / "sites" / "beside.yaml").write_text("title: Ours\n" + YAML)
    (tmp_path / "work" / "sites" / "here.yaml").write_text("name: renamed\n" + YAML)
    monkeypatch.chdir(tmp_path / "work")
    near = tmp_path / "configs"
    assert read_cohort(near / "near.yaml").name == "near"
    with pytest.raises(FedMergeError, match="unknown cohort 'near'"):
        read_cohort("near", near)  # a bare name never means the configuration beside it
    assert read_cohort("near.yaml", near).name == "near"
    assert read_cohort("beside", near).title == "Ours"
    assert read_cohort("here").name == "renamed"
    assert read_cohort("digits-scanners", near).name == "digits-scanners"
    assert {"beside", "here", "digits-scanners"} <= set(cohort_names(near))


def test_a_relative_source_may_lie_beside_the_yaml_file(
    write_npz: Writer, data_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz()
    (data_here / "ours.yaml").write_text(YAML)
    monkeypatch.setenv("FEDMERGE_DATA", str(data_here / "elsewhere"))
    cohort = build_cohort(read_cohort(data_here / "ours.yaml"), seed=0)
    assert len(cohort["north"].train) == 12


def test_an_unknown_cohort_names_the_nearest_and_all() -> None:
    with pytest.raises(FedMergeError, match=r"Did you mean 'digits-scanners'\? Allowed: .*wbc-labs"):
        read_cohort("digit-scanners")
    with pytest.raises(FedMergeError, match=r"no cohort file nowhere/x\.yaml"):
        read_cohort("nowhere/x.yaml")


def test_a_specification_in_python_can_hold_arrays() -> None:
    site = SiteSpec(name="a", source=numbered())
    made = CohortSpec(name="mine", sites=(site,))
    assert len(build_cohort(made, 0)["a"].everything) == 200
    assert made.model_dump(mode="json")["sites"][0]["source"] == str(numbered())


# --- the shipped cohorts


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
        ("pneumonia-pair", ["pneumoniamnist.npz", "cxr_nih_28.npz"], (1, 28, 28), 2, "nih"),
        ("pneumonia-scanners", ["pneumoniamnist.npz"], (1, 28, 28), 2, "hillcrest"),
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
    """Photos only, to be quick: 1670 images, of which 70 % within one a class train."""
    real("pacs96")
    whole = read_cohort("pacs96")
    photo = whole.model_copy(update={"sites": tuple(s for s in whole.sites if s.name == "photo")})
    site = build_cohort(photo, seed=0)["photo"]
    assert site.everything.images.shape == (1670, 3, 96, 96)
    assert abs(len(site.train) - 0.7 * 1670) < 7
    assert site.class_names[0] == "dog"
