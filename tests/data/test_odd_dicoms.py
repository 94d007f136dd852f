"""DICOM files as hospitals have them, odd in one way each: the right pixels, by hand, or a sentence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmerge.data.files.one import Item, read_image
from fedmerge.data.reading import ReadOptions

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'fedmerge[dicom]'")

from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.data.dicoms import dicom, lossless_jpeg, lut
from tests.data.odd_files import AS_WINDOW, COLOURS, DEEP, GREY, TWELVE, WINDOW, OddFiles, of

HU = np.array([[-1024, 0, 40], [140, 240, 3000]], np.int16)
odd = OddFiles()
TO_ALL = [[0, 62, 125], [187, 249, 255]]
"""0 to 4095 become 0 to 255: 1000 x 255 / 4095 = 62.3, 124.5 (to even 125: 124.54), 186.8, 249.1."""
odd("8 bits without a window", GREY)(of(dicom, GREY))
odd("MONOCHROME1 of 8 bits", 255 - GREY)(of(dicom, GREY, PhotometricInterpretation="MONOCHROME1"))
odd("12 bits with its window", AS_WINDOW)(of(dicom, DEEP, **TWELVE, **WINDOW))
odd("MONOCHROME1 with its window", [[255, 255, 127], [0, 0, 0]])(
    of(dicom, DEEP, **TWELVE, **WINDOW, PhotometricInterpretation="MONOCHROME1")
)
odd("12 bits without a window", (12, "window", "percentiles"))(of(dicom, DEEP, **TWELVE))
odd("16 bits without a window", (16, "window", "percentiles"))(of(dicom, DEEP))
odd("a file's window that it lacks", (8, "window"), window="file")(of(dicom, GREY))
odd("a window from the configuration", AS_WINDOW, window=(2000.5, 2001))(of(dicom, DEEP, **TWELVE))
odd("all 12 bits", TO_ALL, window="full")(of(dicom, DEEP, **TWELVE))
odd("percentiles", TO_ALL, percentiles=(0, 100))(of(dicom, DEEP))
odd("several windows", AS_WINDOW)(of(dicom, DEEP, **TWELVE, WindowCenter=[2000.5, 0], WindowWidth=[2001, 1]))
odd("a window of width 1", [[0, 0, 255], [255, 255, 255]])(
    of(dicom, DEEP, **TWELVE, WindowCenter=1500, WindowWidth=1)
)
odd("a window of width 0", ("window", 0))(of(dicom, DEEP, **TWELVE, WindowCenter=1500, WindowWidth=0))
odd("an exact window", [[0, 0, 128], [255, 255, 255]])(
    of(dicom, DEEP, **TWELVE, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
)
odd("a sigmoid", [[5, 30, 128], [225, 250, 251]])(  # 255 / (1 + e^(-4 (x - 2000) / 4000)): e^2, e, 1, 1/e, …
    of(dicom, DEEP, **TWELVE, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="SIGMOID")
)
odd("a function of no name", ("window", "LOG"))(of(dicom, DEEP, **TWELVE, **WINDOW, VOILUTFunction="LOG"))
odd("a CT with rescale and window 40/400", [[0, 102, 128], [192, 255, 255]])(  # (x - 39.5) / 399 + 0.5
    of(
        dicom,
        HU + 1024,
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
    )
)
odd("a signed CT", [[0, 102, 128], [192, 255, 255]], window=(40, 400))(
    of(dicom, HU, Modality="CT", RescaleSlope=1, RescaleIntercept=0)
)
odd("a CT without rescale", ("CT", "rescale"), window=(40, 400))(of(dicom, HU, Modality="CT"))
odd("a slope without intercept", ("slope", "intercept"))(of(dicom, DEEP, RescaleSlope=2, **WINDOW))
odd("a slope of 2", AS_WINDOW)(
    of(dicom, DEEP, **TWELVE, RescaleSlope=2, RescaleIntercept=0, WindowCenter=4000.5, WindowWidth=4001)
)
odd("a lookup table for the eyes", [[0, 255, 0], [0, 0, 0]])(
    of(dicom, np.array([[0, 1, 2], [2, 2, 2]], np.uint16), VOILUTSequence=lut([0, 1023, 0], 10))
)
odd("a lookup table of the machine", [[0, 128, 255], [255, 255, 255]], window=(200.5, 201))(
    of(dicom, np.array([[0, 1, 2], [2, 2, 2]], np.uint16), ModalityLUTSequence=lut([100, 200, 300], 16))
)
odd("padding is black", [[0, 0, 127], [0, 0, 0]])(
    of(dicom, DEEP, **TWELVE, **WINDOW, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0,
       PixelPaddingRangeLimit=1000)
)  # fmt: skip
odd("percentiles leave padding out", [[0, 0, 82], [165, 247, 255]], percentiles=(0, 100))(
    of(dicom, DEEP, PixelPaddingValue=0)
)
odd("frames", (2, "frames"))(of(dicom, np.stack([GREY, 255 - GREY]), NumberOfFrames=2))
odd("the first of frames", GREY, frames="first")(of(dicom, np.stack([GREY, 255 - GREY]), NumberOfFrames=2))
odd("one frame that is counted", GREY)(of(dicom, GREY, NumberOfFrames=1))
odd("RGB", COLOURS)(of(dicom, COLOURS))
odd("RGB by planes", COLOURS)(
    of(dicom, COLOURS, PlanarConfiguration=1, PixelData=COLOURS.transpose(2, 0, 1).tobytes())
)
odd("YBR", [[[200, 200, 200]] * 3] * 2)(  # Cb = Cr = 128: grey
    of(dicom, np.broadcast_to(np.array([200, 128, 128], np.uint8), (2, 3, 3)).copy(),
       PhotometricInterpretation="YBR_FULL")
)  # fmt: skip


@odd("a palette", [[[255, 0, 0], [0, 255, 0], [255, 0, 0]]] * 2)
def _palette(path: Path) -> None:
    tables = {}
    for name, values in (("Red", [65535, 0]), ("Green", [0, 65535]), ("Blue", [0, 0])):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = struct.pack("<2H", *values)
    pixels = np.array([[0, 1, 0]] * 2, np.uint8)
    dicom(path, pixels, PhotometricInterpretation="PALETTE COLOR", **tables)


odd("three samples that are said to be grey", ("MONOCHROME2", 3))(
    of(dicom, COLOURS, PhotometricInterpretation="MONOCHROME2")
)
odd("one sample that is said to be RGB", ("RGB", 1))(of(dicom, GREY, PhotometricInterpretation="RGB"))
odd("colours that are none", ("HSV", "MONOCHROME2"))(of(dicom, COLOURS, PhotometricInterpretation="HSV"))
odd("16 bits a colour", (16, "colour"))(of(dicom, COLOURS.astype(np.uint16)))
odd("no pixels", ("pixels",))(of(dicom, None))
odd("float pixels", ("float",))(of(dicom, GREY, PixelData=None, FloatPixelData=np.zeros(6, "<f4").tobytes()))
odd("no rows", ("lacks", "Rows"))(of(dicom, GREY, Rows=None))
odd("far too many rows", ("65,535 x 65,535", "pixels"))(of(dicom, GREY, Rows=65535, Columns=65535))
odd("too few pixels", ("decoded",))(of(dicom, GREY, PixelData=b"\0\1"))
odd("private tags", GREY)(of(dicom, GREY, InstitutionName="Somewhere"))


@odd("private tags of a maker", GREY)
def _private(path: Path) -> None:
    data = dicom(path, GREY)
    data.private_block(0x0099, "MAKER", create=True).add_new(0x01, "UN", b"\xff" * 7)
    data.save_as(path)


@odd("cut in its header", ("a.dcm",))
def _cut(path: Path) -> None:
    dicom(path, GREY)
    path.write_bytes(path.read_bytes()[:300])


@odd("cut in its pixels", ("decoded",))
def _cut_pixels(path: Path) -> None:
    dicom(path, np.zeros((64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])


@odd("no mark", ("a.dcm", "DICOM"))
def _no_mark(path: Path) -> None:
    path.write_bytes(b"hello" * 100)


@odd("empty", ("a.dcm", "DICOM"))
def _empty(path: Path) -> None:
    path.write_bytes(b"")


odd("big endian", AS_WINDOW)(of(dicom, DEEP.astype(">u2"), syntax=ExplicitVRBigEndian, **TWELVE, **WINDOW))
odd("implicit", GREY)(of(dicom, GREY, syntax=ImplicitVRLittleEndian))
odd("deflated", GREY)(of(dicom, GREY, syntax=DeflatedExplicitVRLittleEndian))
FLAT = np.full((16, 16), 77, np.uint8)


@odd("RLE", AS_WINDOW)
def _rle(path: Path) -> None:
    data = dicom(path, DEEP, **TWELVE, **WINDOW)
    data.compress(RLELossless)
    data.save_as(path)


LARGE = np.tile(np.arange(64, dtype=np.uint8), (64, 1))


@odd("JPEG 2000", LARGE)
def _j2k(path: Path) -> None:
    data = dicom(path, LARGE)
    data.compress(JPEG2000Lossless)
    data.save_as(path)


@odd("JPEG", FLAT)
def _jpeg(path: Path) -> None:
    Image.fromarray(FLAT).save(path.with_suffix(".jpg"), quality=100)
    content = encapsulate([path.with_suffix(".jpg").read_bytes()])
    dicom(path, FLAT, syntax=JPEGBaseline8Bit, PixelData=content)


def _lossless(path: Path, pixels: np.ndarray, syntax: str, bits: int, **tags: Any) -> None:
    dicom(path, pixels, syntax=syntax, PixelData=encapsulate([lossless_jpeg(pixels, bits)]), **tags)


odd("JPEG Lossless of 12 bits", AS_WINDOW)(of(_lossless, DEEP, JPEGLossless, 12, **TWELVE, **WINDOW))
odd("JPEG Lossless of 8 bits", LARGE)(of(_lossless, LARGE, JPEGLosslessSV1, 8))


@odd("JPEG Lossless that ends early", ("decoded", "compressed"))
def _cut_lossless(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    dicom(path, noise, syntax=JPEGLossless, PixelData=encapsulate([lossless_jpeg(noise, 8)[:40]]))


@odd("JPEG that is none", ("decoded", "compressed"))
def _no_jpeg(path: Path) -> None:
    dicom(path, FLAT, syntax=JPEGLossless, PixelData=encapsulate([b"\xff\xd8" + b"\0" * 50]))


@odd("a syntax that holds films", ("decoded", "compressed"))
def _syntax(path: Path) -> None:
    dicom(path, FLAT, syntax="1.2.840.10008.1.2.4.100", PixelData=encapsulate([b"\0" * 50]))


@pytest.mark.parametrize("case", odd.cases)
def test_an_odd_file_gives_the_right_pixels_or_a_sentence(tmp_path: Path, case: str) -> None:
    odd.check(case, tmp_path / "a.dcm")


def test_a_dicom_file_needs_no_suffix_and_says_the_size_of_its_pixels_and_its_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "IM0001", GREY, PixelSpacing=[0.2, 0.3], PatientID=" A7 ", BurnedInAnnotation="YES")
    found = read_image(Item(tmp_path / "IM0001"), ReadOptions())
    assert (found.spacing, found.patient, found.burned, found.inverted) == ((0.2, 0.3), "A7", True, False)
