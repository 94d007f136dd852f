"""More odd files: bits where none should be, other volumes. The right pixels, by hand, or a sentence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmerge.data.files.one import Item, read_image
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError
from tests.facts import has

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'fedmerge[dicom]'")
nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed: pip install 'fedmerge[nifti]'")

from tests.data.dicoms import dicom  # noqa: E402

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
DEEP = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
WINDOW: dict[str, Any] = {"WindowCenter": 2000.5, "WindowWidth": 2001}
AS_WINDOW = [[0, 0, 128], [255, 255, 255]]
FULL: dict[str, Any] = {"window": "full"}
NEGATIVE = np.array([[-2048, -1024, 0], [1023, 2046, 2047]], np.int16)
"""12 bits with a sign, which in 16 bits without one are 0x800, 0xC00, 0, …"""
AS_NEGATIVE = [[0, 64, 128], [191, 255, 255]]
"""(x + 2048) x 255 / 4095: 63.8, 127.5 (127.53), 191.2, 254.9."""
YBR: dict[str, Any] = {
    "Rows": 2, "Columns": 4, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
    "SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL_422",
    "PixelData": bytes([100, 200, 128, 128] * 4),
}  # fmt: skip
"""Eight pixels of 100, 200, 100, … in 4:2:2: two of Y, then one Cb and one Cr that say grey."""
ONE_BIT: dict[str, Any] = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Rows": 2, "Columns": 4}
FALLING: dict[str, Any] = TWELVE | {"RescaleSlope": -1, "RescaleIntercept": 4000}


def palette(first: int, *entries: int) -> dict[str, Any]:
    """Tables that show the number ``first + i`` as grey ``entries[i]`` of 16 bits."""
    tables: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), first, 16]
        tables[f"{name}PaletteColorLookupTableData"] = struct.pack(f"<{len(entries)}H", *entries)
    return tables


DICOMS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], Any]] = {
    "an overlay in bits that are not the image's": (DEEP | 0x5000, TWELVE | WINDOW, {}, AS_WINDOW),
    "12 bits with a sign, not carried on": (
        NEGATIVE.view(np.uint16) & 0xFFF,
        TWELVE | {"PixelRepresentation": 1},
        FULL,
        AS_NEGATIVE,
    ),
    "12 bits with a sign, carried on": (NEGATIVE, TWELVE, FULL, AS_NEGATIVE),
    "12 bits at the upper end of 16": (
        DEEP << 4,
        {"BitsStored": 12, "HighBit": 15} | WINDOW,
        {},
        ("HighBit",),
    ),
    "more bits stored than allocated": (GREY, {"BitsStored": 12}, {}, ("bits",)),
    "huge words": (GREY, {"BitsAllocated": 4096, "BitsStored": 4096}, {}, ("bits",)),
    "one bit a pixel": (GREY, ONE_BIT | {"PixelData": b"\x0e\0"}, {}, [[0, 255, 255, 255], [0, 0, 0, 0]]),
    "a negative slope": (DEEP, FALLING | WINDOW, {}, [[255, 255, 128], [0, 0, 0]]),
    "a negative slope, all values": (DEEP, FALLING, FULL, [[255, 193, 130], [68, 6, 0]]),
    "a slope of 0": (DEEP, TWELVE | {"RescaleSlope": 0, "RescaleIntercept": 5} | WINDOW, {}, ("slope", 0)),
    "no rows at all": (GREY, {"Rows": 0}, {}, ("0", "pixels")),
    "no number of frames": (GREY, {"NumberOfFrames": 0}, {}, GREY),
    "a palette that begins at 10": (
        np.array([[9, 10, 11], [12, 13, 200]], np.uint8),
        palette(10, 0, 0x8000, 0xFFFF),
        {},
        [[0, 0, 128], [255, 255, 255]],
    ),
    "YBR_FULL_422, two pixels a pair": (None, YBR, {}, [[100, 200, 100, 200]] * 2),
    "a window of text": (DEEP, TWELVE | {"WindowCenter": "", "WindowWidth": ""}, {}, (12, "window")),
}


@pytest.mark.parametrize("case", DICOMS)
def test_odd_dicom(tmp_path: Path, case: str) -> None:
    pixels, tags, read, expected = DICOMS[case]
    dicom(tmp_path / "a.dcm", pixels, **tags)
    look(tmp_path / "a.dcm", read, expected)


def look(path: Path, read: dict[str, Any], expected: Any) -> None:
    """The pixels, the same in all channels; or a sentence with these facts."""
    if isinstance(expected, tuple):
        with pytest.raises(FedMergeError) as error:
            read_image(Item(path), ReadOptions(**read))
        sentence = str(error.value)
        assert sentence.startswith(str(path))
        assert [fact for fact in expected if not has(sentence, fact)] == [], sentence
        return
    found = read_image(Item(path), ReadOptions(**read)).pixels[0].numpy()
    for channel in found:
        assert channel.tolist() == np.asarray(expected).tolist()


def test_padding_below_0_that_is_written_without_a_sign_is_black(tmp_path: Path) -> None:
    """-2048 stands as 63488 in two bytes without a sign; in MONOCHROME1 less is lighter."""
    tags = {"WindowCenter": 0.5, "WindowWidth": 4095, "PhotometricInterpretation": "MONOCHROME1"}
    data = dicom(tmp_path / "a.dcm", NEGATIVE, **TWELVE, **tags)
    data.add_new(0x00280120, "US", 63488)
    data.save_as(tmp_path / "a.dcm")
    shown = read_image(Item(tmp_path / "a.dcm"), ReadOptions()).pixels[0, 0]
    assert shown[0, 0] == 0
    assert shown[0, 1] > shown[0, 2] > shown[1, 0] > 0


VALUES = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)


def volume(path: Path, values: np.ndarray, slope: float = 1.0, inter: float = 0.0, **how: Any) -> None:
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]), **how)
    image.header.set_slope_inter(slope, inter)
    if slope != 1.0 or inter:  # saved as the numbers stand there
        image.header.set_slope_inter(slope, inter)
        with path.open("wb") as file:
            header = image.header
            header["magic"] = b"n+1"
            header["vox_offset"] = 352
            header.write_to(file)
            file.write(bytes(352 - file.tell()))
            file.write(values.astype(header.get_data_dtype()).tobytes(order="F"))
        return
    nibabel.save(image, path)


def plane(values: np.ndarray) -> np.ndarray:
    """The third plane across the third axis, columns to the right, rows from front to back."""
    return values[:, ::-1, 2].T


WINDOW_12: dict[str, Any] = {"slice": 2, "window": (0.5, 25)}
AS_12 = np.rint(((plane(VALUES).astype(float) - 0) / 24 + 0.5).clip(0, 1) * 255)
AS_FULL = np.rint((plane(VALUES).astype(float) + 32768) * 255 / 65535)
"""Slope and intercept change the ends with the values."""
RGB = [("R", "u1"), ("G", "u1"), ("B", "u1")]
NIFTIS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "one of four axes, the last of length 1": (lambda p: volume(p, VALUES[..., None]), WINDOW_12, AS_12),
    "five axes, two of length 1": (lambda p: volume(p, VALUES[..., None, None]), WINDOW_12, AS_12),
    "a film": (lambda p: volume(p, np.stack([VALUES] * 3, -1)), WINDOW_12, ("2, 3, 4, 3", "three")),
    "a picture of two axes": (lambda p: volume(p, VALUES[0]), WINDOW_12, ("3, 4", "three")),
    "a negative slope": (lambda p: volume(p, VALUES, -1.0), WINDOW_12, 255 - AS_12),
    "a slope and all values": (
        lambda p: volume(p, VALUES, 2.0, 5.0),
        {"slice": 2, "window": "full"},
        AS_FULL,
    ),
    "big endian": (lambda p: volume(p, VALUES.astype(">i2")), WINDOW_12, AS_12),
    "colours": (lambda p: volume(p, np.zeros((2, 3, 4), RGB)), WINDOW_12, ("a.nii",)),
    "complex numbers": (lambda p: volume(p, VALUES.astype(np.complex64)), WINDOW_12, ("a.nii",)),
    "no number in it": (lambda p: volume(p, np.full((2, 3, 4), np.nan, np.float32)), WINDOW_12, ("finite",)),
    "an axis of no length": (lambda p: volume(p, np.zeros((2, 3, 0), np.int16)), WINDOW_12, ("a.nii",)),
}


@pytest.mark.parametrize("case", NIFTIS)
def test_odd_nifti(tmp_path: Path, case: str) -> None:
    write, read, expected = NIFTIS[case]
    write(tmp_path / "a.nii")
    look(tmp_path / "a.nii", read, expected if isinstance(expected, tuple) else expected.astype(int))


def test_a_packed_volume_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    volume(tmp_path / "whole.nii.gz", np.random.default_rng(0).integers(0, 999, (16, 16, 16), dtype=np.int16))
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "whole.nii.gz").read_bytes()[:2000])
    look(tmp_path / "a.nii.gz", WINDOW_12 | {"slice": 15}, ("a.nii.gz",))


PICTURES: dict[str, tuple[Any, Any]] = {
    "one bit": (lambda p: Image.fromarray(GREY > 100).save(p, format="PNG"), [[0, 0, 255], [255, 255, 255]]),
    "one bit, TIFF": (
        lambda p: Image.fromarray(GREY > 100).save(p, format="TIFF"),
        [[0, 0, 255], [255, 255, 255]],
    ),
    "two levels of a palette": (
        lambda p: Image.fromarray(GREY > 100).convert("P").save(p, format="PNG"),
        [[0, 0, 255], [255, 255, 255]],
    ),
    "a moving picture": (
        lambda p: Image.fromarray(GREY).save(
            p, format="WEBP", save_all=True, append_images=[Image.fromarray(255 - GREY)]
        ),
        (2, "images"),
    ),
    "one pixel": (lambda p: Image.fromarray(GREY[1:, 2:]).save(p, format="PNG"), [[255]]),
}


@pytest.mark.parametrize("case", PICTURES)
def test_odd_pictures(tmp_path: Path, case: str) -> None:
    write, expected = PICTURES[case]
    write(tmp_path / "a")
    look(tmp_path / "a", {}, expected)
