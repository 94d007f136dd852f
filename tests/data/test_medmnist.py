"""MedMNIST as a source: names of classes, files that are here, downloads, sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedmerge.data import CohortSpec, SiteSpec, build_cohort
from fedmerge.data.sources import medmnist
from fedmerge.data.sources.sources import load_source, source_key
from tests.facts import refused

Writer = Callable[..., Path]


def test_medmnist_from_a_local_file_has_its_names(write_npz: Writer) -> None:
    write_npz("breastmnist.npz")
    assert load_source("medmnist:breastmnist").class_names == ("malignant", "normal, benign")


def test_medmnist_from_the_cache(write_npz: Writer, data_here: Path) -> None:
    path = write_npz("breastmnist.npz")
    cache = data_here / "home" / ".medmnist"
    cache.mkdir(parents=True)
    path.rename(cache / path.name)
    assert len(load_source("medmnist:breastmnist").train) == 12


def test_a_label_outside_the_classes_is_named(write_npz: Writer) -> None:
    write_npz("breastmnist.npz", n_classes=3)
    with refused("breastmnist.npz", "train_labels", 2):
        load_source("medmnist:breastmnist")


def test_medmnist_without_a_network_says_how_to_get_the_file(
    data_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medmnist as package

    def fail(**_: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(package, "BreastMNIST", fail)
    with refused("breastmnist.npz", "FEDMERGE_DATA", "medmnist:breastmnist"):
        load_source("medmnist:breastmnist")


def test_a_download_is_visible_only_when_complete(data_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medmnist as package

    def fetch(*, root: str, **_: object) -> None:
        assert not (medmnist.cache_folder() / "breastmnist.npz").exists()
        Path(root, "breastmnist.npz").write_bytes(b"content")

    monkeypatch.setattr(package, "BreastMNIST", fetch)
    path = medmnist.download("breastmnist")
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["breastmnist.npz"]


def test_real_retinamnist(real: Callable[[str], Path]) -> None:
    """Split and class sizes as published with MedMNIST v2."""
    real("retinamnist.npz")
    raw = load_source("medmnist:retinamnist")
    assert [len(split) for split in raw.splits] == [1080, 120, 400]
    assert raw.train.class_counts(5).tolist() == [486, 128, 206, 194, 66]
    assert raw.shape == (3, 28, 28)


def write_medmnist(write_npz: Writer, name: str, side: int) -> None:
    """A file whose images are ``side`` wide and high."""
    shape = (12, side, side)
    write_npz(f"{name}.npz", **{f"{s}_images": np.zeros(shape, np.uint8) for s in ("train", "val", "test")})


@pytest.mark.parametrize("size", [64, 128, 224])
def test_a_size_of_medmnist_is_read_from_its_own_file(write_npz: Writer, size: int) -> None:
    """By its name, and by the cohort's size; other sizes are made of the file of 28 px."""
    write_medmnist(write_npz, "breastmnist", 28)
    write_medmnist(write_npz, f"breastmnist_{size}", size)
    for source, asked in ((f"medmnist:breastmnist_{size}", None), ("medmnist:breastmnist", size)):
        raw = load_source(source, size=asked)
        assert raw.shape == (1, size, size)
        assert raw.class_names == ("malignant", "normal, benign")
        assert raw.remarks == ()
    assert load_source("medmnist:breastmnist").shape == (1, 28, 28)
    assert load_source("medmnist:breastmnist", size=32).shape == (1, 28, 28)
    assert source_key("medmnist:breastmnist", size=size) == source_key(f"medmnist:breastmnist_{size}")
    assert source_key("medmnist:breastmnist", size=size) != source_key("medmnist:breastmnist", size=28)


def test_a_size_of_medmnist_is_downloaded_by_its_name(
    data_here: Path, monkeypatch: pytest.MonkeyPatch, write_npz: Writer
) -> None:
    import medmnist as package

    asked = []

    def fetch(*, root: Path, size: int | None = None, **_: object) -> None:
        asked.append(size)
        write_npz("fetched.npz").rename(Path(root) / f"breastmnist_{size}.npz")

    monkeypatch.setattr(package, "BreastMNIST", fetch)
    assert medmnist.download("breastmnist_64") == data_here / "home" / ".medmnist" / "breastmnist_64.npz"
    write_npz("breastmnist.npz")
    assert load_source("medmnist:breastmnist", size=128).remarks == ()
    assert asked == [64, 128]


def test_a_size_that_cannot_be_had_is_made_of_28_px_with_a_remark(
    write_npz: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for once, not with every seed; where nothing may be downloaded, not at all."""
    import medmnist as package

    asked = []

    def fail(**_: object) -> None:
        asked.append(1)
        raise RuntimeError("no network")

    monkeypatch.setattr(package, "BreastMNIST", fail)
    write_medmnist(write_npz, "breastmnist", 28)
    with medmnist.no_downloads():
        assert load_source("medmnist:breastmnist", size=64).shape == (1, 28, 28)
    assert asked == []
    for _ in range(2):
        raw = load_source("medmnist:breastmnist", size=64)
        assert raw.shape == (1, 28, 28)
        assert "breastmnist_64.npz is not here and could not be downloaded" in raw.remarks[0]
    assert asked == [1]
    with refused("files/breastmnist_64.npz", "FEDMERGE_DATA"):
        load_source("medmnist:breastmnist_64")


@pytest.mark.parametrize("name", ["pathmnist_65", "pathmnist_28", "pathmnist_640"])
def test_another_size_of_medmnist_names_those_that_there_are(name: str) -> None:
    with refused("28 px", "pathmnist_64", "pathmnist_128", "pathmnist_224"):
        load_source(f"medmnist:{name}")
    with refused("3-D", "volumes"), medmnist.no_downloads():
        medmnist.class_names("organmnist3d_64")


def test_one_set_of_medmnist_in_two_sizes_is_refused(write_npz: Writer) -> None:
    write_medmnist(write_npz, "breastmnist", 28)
    write_medmnist(write_npz, "breastmnist_64", 64)
    sites = [
        SiteSpec(name="north", source="medmnist:breastmnist"),
        SiteSpec(name="south", source="medmnist:breastmnist_64", unseen=True),
    ]
    with refused("north", "south", "two"):
        build_cohort(CohortSpec(name="two", size=28, sites=sites), 0)


@pytest.mark.parametrize("at", ["home", "home/.medmnist"])
def test_a_cache_that_cannot_be_made_is_a_sentence(data_here: Path, at: str) -> None:
    """A file stands where the folder should be."""
    (data_here / at).parent.mkdir(parents=True, exist_ok=True)
    (data_here / at).write_text("a file")
    with refused("FEDMERGE_DATA", "medmnist:breastmnist", "machine", "written"):
        load_source("medmnist:breastmnist")
