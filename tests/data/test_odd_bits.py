"""DICOM files with bits and numbers where none should be: the right pixels, by hand, or a sentence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmerge.data.files.one import Item, read_image
from fedmerge.data.reading import ReadOptions

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'fedmerge[dicom]'")

from tests.data.dicoms import dicom
from tests.data.odd_files import AS_WINDOW, DEEP, GREY, TWELVE, WINDOW, in_colours, look

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
        in_colours([[0, 0, 128], [255, 255, 255]]),
    ),
    "YBR_FULL_422, two pixels a pair": (None, YBR, {}, in_colours([[100, 200, 100, 200]] * 2)),
    "a window of text": (DEEP, TWELVE | {"WindowCenter": "", "WindowWidth": ""}, {}, (12, "window")),
}


@pytest.mark.parametrize("case", DICOMS)
def test_odd_dicom(tmp_path: Path, case: str) -> None:
    pixels, tags, read, expected = DICOMS[case]
    dicom(tmp_path / "a.dcm", pixels, **tags)
    look(tmp_path / "a.dcm", read, expected)


def test_padding_below_0_that_is_written_without_a_sign_is_black(tmp_path: Path) -> None:
    """-2048 stands as 63488 in two bytes without a sign; in MONOCHROME1 less is lighter."""
    tags = {"WindowCenter": 0.5, "WindowWidth": 4095, "PhotometricInterpretation": "MONOCHROME1"}
    data = dicom(tmp_path / "a.dcm", NEGATIVE, **TWELVE, **tags)
    data.add_new(0x00280120, "US", 63488)
    data.save_as(tmp_path / "a.dcm")
    shown = read_image(Item(tmp_path / "a.dcm"), ReadOptions()).pixels[0, 0]
    assert shown[0, 0] == 0
    assert shown[0, 1] > shown[0, 2] > shown[1, 0] > 0
