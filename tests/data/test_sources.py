"""Sources by name: digits, folders of pictures, and what is no source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedmerge.data.sources.sources import load_source
from tests.facts import refused


def test_digits_are_all_there_once_and_in_256_levels() -> None:
    """1797 images of 16 levels: 0 to 255 in steps of 255/16; 60/20/20 within one sample a class."""
    raw = load_source("digits")
    images = torch.cat([split.images for split in raw.splits])
    assert raw.shape == (1, 8, 8)
    assert len(images) == 1797
    assert set(images.unique().tolist()) <= {round(level * 255 / 16) for level in range(17)}
    counts = torch.stack([split.class_counts(10) for split in raw.splits]).float()
    fractions = torch.tensor([[0.6], [0.2], [0.2]])
    assert ((counts - fractions * counts.sum(0)).abs() < 1).all()


def test_digits_are_always_split_alike() -> None:
    assert torch.equal(load_source("digits").val.images, load_source("digits").val.images)


def test_a_missing_file_says_where_and_how(data_here: Path) -> None:
    with refused("FEDMERGE_DATA", "npz:none.npz") as caught:
        load_source("npz:none.npz", folder=data_here / "yaml")
    assert str(data_here) in str(caught.value)
    assert str(data_here / "yaml") in str(caught.value)


def test_a_folder_is_no_npz_and_a_file_no_folder(write_npz: Callable[..., Path], data_here: Path) -> None:
    write_npz()
    (data_here / "cells").mkdir()
    with refused("folder:cells", "npz:cells"):
        load_source("npz:cells")
    with refused("npz:set.npz", "folder:set.npz"):
        load_source("folder:set.npz")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digit", ("digits", "digit", "medmnist")),
        ("digits:8", ("npz:", "digits", "medmnist")),
        ("nzp:x", ("npz", "nzp:x")),
        ("npz:", ("npz:", "digits", "medmnist")),
        ("medmnist:pneumonia", ("pneumoniamnist", "MedMNIST")),
        ("medmnist:organmnist3d", ("3-D", "volumes")),
    ],
)
def test_an_unknown_source_is_a_sentence(source: str, words: tuple[object, ...]) -> None:
    with refused(*words):
        load_source(source)


@pytest.fixture
def pictures(data_here: Path) -> Path:
    """Ten grey PNGs of each of the classes ``b-cell`` and ``a-cell``, 9 wide and 8 high, of value 10 i."""
    for name in ("b-cell", "a-cell"):
        (data_here / "cells" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (9, 8), 10 * i).save(data_here / "cells" / name / f"{i}.png")
    return data_here / "cells"


def test_a_folder_is_split_within_each_class_by_sorted_name(pictures: Path) -> None:
    raw = load_source("folder:cells")
    assert raw.class_names == ("a-cell", "b-cell")
    assert raw.shape == (1, 8, 9)
    assert [split.class_counts(2).tolist() for split in raw.splits] == [[7, 7], [1, 1], [2, 2]]
    values = torch.cat([split.images[:, 0, 0, 0] for split in raw.splits])
    assert sorted(values.tolist()) == sorted(2 * list(range(0, 100, 10)))


def test_a_folder_may_be_resized_and_coloured(pictures: Path) -> None:
    assert load_source("folder:cells", size=16, channels=3).shape == (3, 16, 16)
    Image.new("RGB", (9, 8), "red").save(pictures / "a-cell" / "colour.jpg")
    assert load_source("folder:cells").shape == (3, 8, 9)


def test_a_folder_with_another_size_asks_for_size(pictures: Path) -> None:
    Image.new("L", (5, 8)).save(pictures / "a-cell" / "small.png")
    with refused("small.png", "5 x 8", "size:"):
        load_source("folder:cells")
    assert load_source("folder:cells", size=8).shape == (1, 8, 8)


def test_faults_of_a_folder_are_sentences(pictures: Path) -> None:
    (pictures / "a-cell" / "bad.jpg").write_bytes(b"not a picture")
    with refused("bad.jpg", "read"):
        load_source("folder:cells")
    Image.effect_noise((64, 64), 50).save(pictures / "a-cell" / "bad.jpg")
    whole = (pictures / "a-cell" / "bad.jpg").read_bytes()
    (pictures / "a-cell" / "bad.jpg").write_bytes(whole[: len(whole) // 2])
    with refused("bad.jpg", "read"):
        load_source("folder:cells")
    (pictures / "a-cell" / "bad.jpg").unlink()
    Image.new("I;16", (9, 8)).save(pictures / "a-cell" / "deep.png")
    with refused("deep.png", "8-bit"):
        load_source("folder:cells")
    (pictures / "empty").mkdir()
    with refused("empty", "PNG"):
        load_source("folder:cells")


def test_a_folder_without_classes_is_a_sentence(data_here: Path) -> None:
    (data_here / "cells").mkdir()
    with refused("subfolders"):
        load_source("folder:cells")
