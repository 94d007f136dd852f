"""Which files of a folder of images are read, and what is said of the rest."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.sources.sources import load_source
from tests.facts import refused


def picture(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path, format="PNG")


@pytest.fixture
def cells(data_here: Path) -> Path:
    """20 images of each of the classes ``a`` and ``b``."""
    for name in "ab":
        for i in range(20):
            picture(data_here / "cells" / name / f"{i:02}.png", i)
    return data_here / "cells"


def spec(**fields: object) -> CohortSpec:
    return CohortSpec(name="test", source="folder:cells", sites=[{"name": "clinic"}], **fields)


def others(folder: Path, n: int, suffix: str) -> None:
    """Rename n images of a folder, and make them something that is none."""
    for file in sorted(folder.glob("*.png"))[:n]:
        file.write_bytes(b"DICM" * 40)
        file.rename(file.with_suffix(suffix))


@pytest.mark.parametrize("suffix", [".dcm", ".nii", ".heic", ".xyz", ""])
def test_a_class_that_loses_more_than_a_tenth_is_refused_unless_told(cells: Path, suffix: str) -> None:
    """3 of 20 are more than a tenth, 2 are not; 38 of the 40 are left, and the two are counted by kind."""
    others(cells / "a", 2, suffix)
    cohort = build_cohort(spec(), 0)
    kind = suffix or "without a suffix"
    assert len(cohort["clinic"].everything) == 38
    assert cohort.reading == (f"folder:cells: 2 files are left out (2 {kind}; a 2).",)
    others(cells / "a", 3, suffix)
    with refused("a", "5", "20", kind, "left_out", "allow"):
        build_cohort(spec(), 0)
    allowed = build_cohort(spec(left_out="allow"), 0)
    assert len(allowed["clinic"].everything) == 35
    assert f"5 files are left out (5 {kind}; a 5)" in allowed.reading[0]


def test_webp_tiff_bmp_and_gif_are_read_like_png(cells: Path) -> None:
    for i, (suffix, kind) in enumerate(
        [(".webp", "WEBP"), (".TIF", "TIFF"), (".bmp", "BMP"), (".gif", "GIF")]
    ):
        for j in range(4):
            place = cells / "a" / f"{4 * i + j:02}.png"
            Image.open(place).save(place.with_suffix(suffix), format=kind, lossless=True)
            place.unlink()
    raw = load_source("folder:cells")
    assert sum(len(split) for split in raw.splits) == 40
    assert sorted(
        v for split in raw.splits for v in split.images[split.labels == 0][:, 0, 0, 0].tolist()
    ) == [*range(20)]
    assert raw.remarks == ()


def test_an_image_without_a_suffix_is_read_and_so_is_one_of_a_strange_suffix(cells: Path) -> None:
    (cells / "a" / "00.png").rename(cells / "a" / "00")
    (cells / "a" / "01.png").rename(cells / "a" / "01.img")
    raw = load_source("folder:cells")
    assert sum(len(split) for split in raw.splits) == 40
    assert raw.remarks == ()


def test_images_one_folder_deeper_are_counted_and_refused(cells: Path) -> None:
    for i in range(19):
        (cells / "b" / f"patient-{i}").mkdir()
        (cells / "b" / f"{i:02}.png").rename(cells / "b" / f"patient-{i}" / "scan.png")
    with refused(19, 20, "'b'", "deeper"):
        load_source("folder:cells")
    for file in list((cells / "b").glob("*.png")):
        file.unlink()
    with refused("'b'", "images", 19):
        load_source("folder:cells", allow=True)


def test_junk_is_skipped_and_counted(cells: Path) -> None:
    for name in (".DS_Store", "._00.png", "._01.png", "Thumbs.db", "desktop.ini"):
        (cells / "a" / name).write_bytes(b"junk")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        picture(cells / name / "00.png")
    (cells / "b" / "@eaDir").mkdir()
    (cells / "labels.csv").write_text("0,1")
    raw = load_source("folder:cells")
    assert raw.class_names == ("a", "b")
    assert sum(len(split) for split in raw.splits) == 40
    (remark,) = raw.remarks
    assert "10 files that are no images are skipped" in remark
    for kind in ("2 ._*", "2 @eaDir", "1 .DS_Store"):
        assert kind in remark


def test_text_beside_images_is_counted_and_no_loss(cells: Path) -> None:
    for i in range(20):
        (cells / "a" / f"{i:02}.json").write_text("{}")
    assert load_source("folder:cells").remarks == (
        "folder:cells: 20 files that are no images are skipped (20 .json).",
    )


def test_images_beside_the_classes_are_counted(cells: Path) -> None:
    """4 of 44 are less than a tenth, 5 of 45 are more."""
    for i in range(4):
        picture(cells / f"loose-{i}.png")
    assert "4 files are left out (4 .png; beside the classes 4)" in load_source("folder:cells").remarks[0]
    picture(cells / "loose-4.png")
    with refused(5, "beside"):
        load_source("folder:cells")


def test_links_are_followed_and_those_to_nothing_counted(cells: Path) -> None:
    picture(cells.parent / "elsewhere.png", 99)
    (cells / "a" / "linked.png").symlink_to(cells.parent / "elsewhere.png")
    (cells / "c").symlink_to(cells / "b", target_is_directory=True)
    raw = load_source("folder:cells")
    assert raw.class_names == ("a", "b", "c")
    assert sum(len(split) for split in raw.splits) == 61
    (cells.parent / "elsewhere.png").unlink()
    assert "1 links to nothing" in load_source("folder:cells").remarks[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_image_and_is_not_waited_for(cells: Path) -> None:
    os.mkfifo(cells / "a" / "pipe.png")
    assert "1 no plain files" in load_source("folder:cells").remarks[0]


def test_all_files_that_are_refused_are_counted(cells: Path) -> None:
    for i in (3, 5, 9):
        (cells / "b" / f"{i:02}.png").write_bytes(b"")
    with refused("03.png", 2, "05.png", "09.png"):
        load_source("folder:cells")


# --- splits


def split_folder(root: Path, names: dict[str, int], classes: str = "ab") -> None:
    """n images of each class in each split; the value says the split."""
    for value, (split, n) in enumerate(names.items()):
        for name in classes:
            for i in range(n):
                picture(root / split / name / f"{i}.png", 50 + 50 * value)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_train_val_and_test_folders_are_the_split(data_here: Path, val: str) -> None:
    split_folder(data_here / "cells", {"train": 8, val: 3, "test": 5})
    raw = load_source("folder:cells")
    assert raw.class_names == ("a", "b")
    assert [split.class_counts(2).tolist() for split in raw.splits] == [[8, 8], [3, 3], [5, 5]]
    assert [split.images.unique().tolist() for split in raw.splits] == [[50], [100], [150]]


def test_without_val_an_eighth_of_train_is_it(data_here: Path) -> None:
    split_folder(data_here / "cells", {"train": 16, "test": 5})
    raw = load_source("folder:cells")
    assert [split.class_counts(2).tolist() for split in raw.splits] == [[14, 14], [2, 2], [5, 5]]
    assert [split.images.unique().tolist() for split in raw.splits] == [[50], [50], [100]]
    assert raw.remarks == ("folder:cells: it has no val folder, so 4 images of train are its val.",)


def test_a_class_of_one_split_alone_keeps_its_label(data_here: Path) -> None:
    split_folder(data_here / "cells", {"train": 8, "val": 2, "test": 2})
    for i in range(2):
        picture(data_here / "cells" / "test" / "aa" / f"{i}.png")
    raw = load_source("folder:cells")
    assert raw.class_names == ("a", "aa", "b")
    assert [split.class_counts(3).tolist() for split in raw.splits] == [[8, 0, 8], [2, 0, 2], [2, 2, 2]]


def test_what_a_split_loses_is_counted_where_it_is(data_here: Path) -> None:
    split_folder(data_here / "cells", {"train": 40, "val": 4, "test": 4})
    others(data_here / "cells" / "test" / "a", 3, ".dcm")
    with refused(4, "test/a", "3 .dcm"):
        load_source("folder:cells")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train/a", "test/a", "cats"], ("cats", "split")),
        (["train/a", "val/a"], ("splits", "train")),
        (["train/a"], ("splits", "train")),
        (["train/a", "test/a", "val/a", "valid/a"], ("two", "folders", "split")),
        (["train", "test"], ("subfolders",)),
        (["Mass", "mass"], ("Mass", "mass", "classes")),
        (["train/Mass", "test/mass"], ("Mass", "mass", "classes")),
        (["mass", "mass "], ("case", "spaces")),
        ([unicodedata.normalize(form, "épine") for form in ("NFC", "NFD")], ("folders", "name")),
    ],
)
def test_a_folder_that_can_be_read_in_two_ways_is_refused(
    data_here: Path, folders: list[str], words: str
) -> None:
    for folder in folders:
        picture(data_here / "cells" / folder / "0.png")
    with refused(*words):
        load_source("folder:cells")


def test_names_of_classes_may_have_spaces_and_letters_of_any_kind(data_here: Path) -> None:
    """A folder from macOS has its letters taken apart; the cohort's file has them composed."""
    for name in ("ductal carcinoma", unicodedata.normalize("NFD", "épine")):
        for i in range(20):
            picture(data_here / "cells" / name / f"{i}.png")
    names = ["ductal carcinoma", unicodedata.normalize("NFC", "épine")]
    assert build_cohort(spec(classes=names), 0).class_names == tuple(names)
    assert load_source("folder:cells").class_names == tuple(names)
