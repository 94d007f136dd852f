"""Sources that are .npz files: their arrays, their patients, and every fault in a sentence."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedmerge.data import CohortSpec, SiteSpec, build_cohort
from fedmerge.data.sources import npz_sizes
from fedmerge.data.sources.npz import read_npz
from fedmerge.data.sources.sources import load_source, source_key
from tests.facts import refused

Writer = Callable[..., Path]


def test_npz_reads_grey_and_rgb(write_npz: Writer) -> None:
    rgb = {f"{s}_images": np.zeros((12, 9, 7, 3), np.uint8) for s in ("train", "val", "test")}
    rgb["train_images"][5, 2, 3] = (10, 20, 30)
    write_npz("rgb.npz", **rgb)
    write_npz("grey.npz", val_labels=np.arange(12) % 2, more=np.zeros(3))
    assert load_source("npz:grey.npz").shape == (1, 9, 9)
    raw = load_source("npz:rgb.npz")
    assert raw.shape == (3, 9, 7)
    assert raw.train.images[5, :, 2, 3].tolist() == [10, 20, 30]
    assert raw.train.labels.tolist() == [0, 1] * 6
    assert raw.class_names is None
    assert raw.n_classes == 2


KEYS = [f"{split}_patients" for split in ("train", "val", "test")]


def test_npz_reads_patients(write_npz: Writer) -> None:
    patients = [np.arange(12, dtype=np.int32) // 5, np.arange(12, dtype=np.uint8)[:, None], np.full(12, -3)]
    write_npz("known.npz", **dict(zip(KEYS, patients, strict=True)))
    raw = load_source("npz:known.npz")
    assert [split.groups.tolist() for split in raw.splits] == [p.flatten().tolist() for p in patients]
    write_npz("unknown.npz")
    assert [split.groups for split in load_source("npz:unknown.npz").splits] == [None] * 3


def test_patients_stay_with_their_images_in_a_cohort(write_npz: Writer) -> None:
    """Two sites divide a source whose patient is also the brightness: 12 images a split, 36 in all."""
    rng = np.random.default_rng(0)
    patients = {key: rng.integers(0, 6, 12, dtype=np.uint8) for key in KEYS}
    images = {key.replace("patients", "images"): 40 * own for key, own in patients.items()}
    flat = np.ones((1, 9, 9), np.uint8)
    write_npz(**patients, **{key: value[:, None, None] * flat for key, value in images.items()})
    sites = [SiteSpec(name=name, limit=5) for name in ("north", "south")]
    spec = CohortSpec(name="two", source="npz:set.npz", size=8, minimum={"samples": 1}, sites=sites)
    for site in build_cohort(spec, 0).sites:
        assert len(site.train) == 5
        assert site.everything.images[:, 0, 0, 0].long().equal(40 * site.everything.groups)


def test_a_path_may_start_at_the_yaml_folder(write_npz: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npz()
    monkeypatch.delenv("FEDMERGE_DATA")
    assert len(load_source("npz:set.npz", folder=path.parent).train) == 12
    assert source_key("npz:set.npz", path.parent) == source_key(f"npz:{path}") == path.resolve()


two = np.zeros((12, 9, 9), np.uint8)
FAULTS = {
    "missing keys": ({"val_images": None, "test_labels": None}, ("val_images", "test_labels")),
    "floats": ({"train_images": two.astype(np.float32)}, ("train_images", "uint8", "float32")),
    "16 bit": ({"train_images": two.astype(np.uint16)}, ("train_images", "uint8", "uint16")),
    "flat": ({"val_images": np.zeros((12, 81), np.uint8)}, ("val_images", "(12, 81)")),
    "two channels": ({"val_images": np.zeros((12, 9, 9, 2), np.uint8)}, ("val_images", "N x H x W x 3")),
    "volumes": ({"val_images": np.zeros((12, 9, 9, 9), np.uint8)}, ("val_images", "N x H x W x 3")),
    "sizes differ": ({"test_images": np.zeros((12, 8, 9), np.uint8)}, ("size", "splits")),
    "several labels": ({"train_labels": np.zeros((12, 14), np.uint8)}, ("14 columns",)),
    "findings that are no 0 and 1": (
        {f"{name}_labels": np.full((12, 3), 2, np.uint8) for name in ("train", "val", "test")},
        ("rows", "0", "1", "2"),
    ),
    "float labels": ({"train_labels": np.zeros(12)}, ("12 integers", "float64")),
    "too few labels": ({"train_labels": np.zeros((11, 1), int)}, ("12 integers", "(11, 1)")),
    "negative": ({"test_labels": np.full(12, -1)}, ("test_labels", "-1")),
    "patients of one split": ({"val_patients": two[:, 0, 0]}, ("val_patients", "three")),
    "float patients": (dict.fromkeys(KEYS, np.zeros(12)), ("train_patients", "12 integers", "float64")),
    "too few patients": (dict.fromkeys(KEYS, np.zeros(9, int)), ("train_patients", "12", "(9,)")),
    "named patients": (dict.fromkeys(KEYS, np.array(["a"] * 12, dtype=object)), ("pickled",)),
    "pickled": ({"train_labels": np.array([0, "a"] * 6, dtype=object)}, ("pickled",)),
    "text": ({"train_images": np.array(["a"] * 12)}, ("train_images", "uint8")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_array_is_a_sentence(write_npz: Writer, fault: str) -> None:
    replace, words = FAULTS[fault]
    path = write_npz(**replace)
    with refused(*words) as caught:
        load_source("npz:set.npz")
    assert str(caught.value).startswith(str(path.resolve()))


def test_every_cut_of_a_file_is_a_sentence(write_npz: Writer) -> None:
    path = write_npz()
    whole = path.read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with refused("short", "cut", "damaged"):
            load_source("npz:set.npz")


def test_a_damaged_byte_is_a_sentence(write_npz: Writer) -> None:
    path = write_npz()
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(bytes(content))
    with refused("short", "cut", "damaged"):
        load_source("npz:set.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x93NUMPY\x01\x00"])
def test_a_file_of_another_kind_is_a_sentence(data_here: Path, content: bytes) -> None:
    (data_here / "set.npz").write_bytes(content)
    with refused("file", "numpy.savez_compressed"):
        load_source("npz:set.npz")


def test_an_odd_header_an_array_twice_and_packed_names_are_sentences(
    write_npz: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy raises anything at odd headers, and of two arrays of one name it takes the last."""
    good = write_npz()
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def saved(name: str, changed: dict[str, bytes], again: str = "") -> Path:
        path = tmp_path / name
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")
            for key, content in (members | changed).items():
                for _ in range(2 if key == again else 1):
                    archive.writestr(key, content)
        return path

    for key in ("train_images", "val_labels"):
        for shape in ("(True, 8, 8)", "(" * 900, "(-1,)"):
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            odd = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
            with refused("odd.npz", key, "header"):
                read_npz(saved("odd.npz", {f"{key}.npy": odd}), "npz:odd")
    with refused("twice.npz", "train_labels", "two arrays"):
        read_npz(saved("twice.npz", {}, "train_labels.npy"), "npz:twice")
    monkeypatch.setattr(npz_sizes, "SUSPECT", 10_000)
    names = io.BytesIO()
    np.save(names, np.full(9_000, "a" * 100))
    with refused("names.npz", "class_names", "more than images can be"):
        read_npz(saved("names.npz", {"class_names.npy": names.getvalue()}), "npz:names")
