"""Read one DICOM file as 8-bit pixels: rescaled, windowed, black as black; or refuse it by name.

Of the header only what the pixels need is used; of a patient, a code that tells one from another in memory.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmerge.data.files.levels import ADVICE, to_bytes, windowed
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError
from fedmerge.extras import extra

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420", "PALETTE COLOR")
SUFFIXES = (".dcm", ".dicom", ".ima")
MOST_PIXELS = 100_000_000
COMPRESSED = "it may be cut short, or compressed in a way that is not installed here"


@dataclass(frozen=True, eq=False)
class DicomImage:
    """pixels: uint8 H x W or H x W x 3. patient: its PatientID, "" for none. spacing: mm between rows and
    columns, None where the file does not say. inverted: MONOCHROME1. burned: text may stand in the pixels.
    """

    pixels: np.ndarray
    patient: str = ""
    spacing: tuple[float, float] | None = None
    inverted: bool = False
    burned: bool = False


def is_dicom(file: Path) -> bool:
    """Whether a file has DICOM's mark, ``DICM`` after 128 bytes."""
    try:
        with file.open("rb") as content:
            content.seek(128)
            return content.read(4) == b"DICM"
    except OSError:
        return False


def patient_of(file: Path) -> str:
    """Return the PatientID of a DICOM file without its pixels; "" where there is none."""
    with extra("dicom", "a DICOM file"):
        import pydicom
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
    except Exception:  # whoever reads its pixels says what is wrong with it
        return ""
    return str(header.get("PatientID", "") or "").strip()


def read_dicom(file: Path, read: ReadOptions) -> DicomImage:
    """Read a DICOM file. Raises FedMergeError that begins with the file's name for what cannot be shown.

    Values are rescaled (modality LUT, or slope and intercept), then brought to 0 to 255 by ``read``, or by
    the file's own VOI LUT or first window; 8-bit values without one stay as they are. MONOCHROME1 is turned
    to black as black. Padding becomes black. Colours become RGB.
    """
    with extra("dicom", "a DICOM file"):
        import pydicom
        from pydicom.errors import InvalidDicomError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _image(pydicom.dcmread(file), read)
    except FedMergeError as error:
        raise FedMergeError(f"{file} {error}") from None
    except InvalidDicomError:
        raise FedMergeError(f"{file} is no DICOM file: replace or remove it.") from None
    except Exception as error:  # decoders and readers of values raise whatever they please
        why = f"{type(error).__name__}; {COMPRESSED}"
        raise FedMergeError(
            f"{file} cannot be decoded ({why}): replace it, or save it uncompressed."
        ) from None


def _image(header: Dataset, read: ReadOptions) -> DicomImage:
    from pydicom.pixels.utils import pixel_array

    kind = _checked(header, read)
    frames = int(header.get("NumberOfFrames", 1) or 1)
    stored = pixel_array(header, index=0 if frames > 1 else None)
    if stored.shape[:2] != (header.Rows, header.Columns):
        raise FedMergeError(f"decodes to another size ({stored.shape}) than its header says: replace it.")
    if kind in (*GREY, "PALETTE COLOR"):
        stored = _own_bits(header, stored)
    about: dict[str, Any] = {
        "patient": str(header.get("PatientID", "") or "").strip(),
        "spacing": _spacing(header),
        "burned": str(header.get("BurnedInAnnotation", "")).upper() == "YES",
    }
    if kind in GREY:
        shown = _grey(header, stored, read)
        padding = _padding(header, stored)
        shown = 255 - shown if kind == "MONOCHROME1" else shown
        shown = np.where(padding, np.uint8(0), shown)
        return DicomImage(shown, inverted=kind == "MONOCHROME1", **about)
    return DicomImage(_colour(header, stored, kind), **about)


def _checked(header: Dataset, read: ReadOptions) -> str:
    """Return the photometric interpretation. Raises FedMergeError for what is refused by the header."""
    if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FedMergeError("has no pixels (a report, a plan, or a DICOMDIR): remove it.")
    if "PixelData" not in header:
        raise FedMergeError("has float pixels, which are not read: save whole numbers with a rescale slope.")
    lacking = [
        n for n in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation") if n not in header
    ]
    if lacking:
        raise FedMergeError(f"lacks {', '.join(lacking)}: replace it.")
    rows, columns = int(header.Rows), int(header.Columns)
    if rows * columns > MOST_PIXELS or rows * columns == 0:
        raise FedMergeError(f"says {columns:,} x {rows:,} pixels, which no image of one patient has.")
    _check_bits(header)
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames > 1 and read.frames == "refuse":
        raise FedMergeError(
            f"has {frames} frames: set read: {{frames: first}} to take the first of each, or save the one "
            f"that "
            "is meant as a file of its own."
        )
    kind, samples = str(header.PhotometricInterpretation), int(header.get("SamplesPerPixel", 1))
    if kind not in GREY + COLOUR:
        raise FedMergeError(f"has the colours '{kind}': save it as MONOCHROME2 or RGB.")
    if samples != (1 if kind in (*GREY, "PALETTE COLOR") else 3):
        raise FedMergeError(
            f"says {kind} and {samples} samples a pixel, which do not fit: correct its header."
        )
    return kind


def _check_bits(header: Dataset) -> None:
    """Refuse bits of a pixel that cannot be, or that do not begin at the lowest."""
    allocated = int(header.BitsAllocated)
    stored = int(header.get("BitsStored", allocated))
    if allocated not in (1, 8, 16, 32) or not 0 < stored <= allocated:
        raise FedMergeError(
            f"has {stored} bits a pixel in words of {allocated}, which cannot be: correct the header."
        )
    if (high := int(header.get("HighBit", stored - 1))) != stored - 1:
        raise FedMergeError(
            f"has its {stored} bits below HighBit {high}, not at the lower end of each word: save it anew."
        )


def _own_bits(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Return values without the bits that are not the image's; a sign is carried on to the whole word."""
    unused = 8 * stored.dtype.itemsize - int(header.get("BitsStored", header.BitsAllocated))
    return stored if unused <= 0 or int(header.BitsAllocated) == 1 else (stored << unused) >> unused


def _grey(header: Dataset, stored: np.ndarray, read: ReadOptions) -> np.ndarray:
    """Return grey values as uint8, as MONOCHROME2 would show them."""
    from pydicom.pixels.processing import apply_modality_lut

    if ("RescaleSlope" in header) != ("RescaleIntercept" in header):
        raise FedMergeError("has a rescale slope or intercept without the other: correct its header.")
    if header.get("Modality") == "CT" and "RescaleSlope" not in header:
        raise FedMergeError(
            "is a CT without rescale slope and intercept, so its values mean nothing: replace it."
        )
    if float(header.get("RescaleSlope", 1)) == 0:
        raise FedMergeError("has a rescale slope of 0, which makes all values one: correct its header.")
    values = apply_modality_lut(stored, header)
    bits = int(header.get("BitsStored", header.BitsAllocated))
    signed = int(header.get("PixelRepresentation", 0)) == 1
    ends = np.array(
        [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=np.float64
    )
    if "ModalityLUTSequence" not in header:
        ends = ends * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    else:
        ends = np.array([0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
    if read.window in (None, "file") and read.percentiles is None:
        return _by_file(header, values, bits, signed, asked=read.window == "file")
    limits = (float(ends.min()), float(ends.max()))
    return to_bytes(values, read, limits, ~_padding(header, stored))


def _by_file(header: Dataset, values: np.ndarray, bits: int, signed: bool, asked: bool) -> np.ndarray:
    """Return values as the file's own VOI LUT or window shows them."""
    from pydicom.pixels.processing import apply_voi_lut

    if header.get("VOILUTSequence"):
        depth = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return (
            np.rint(apply_voi_lut(values, header, 0) * (255 / (2**depth - 1))).clip(0, 255).astype(np.uint8)
        )
    centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction", "LINEAR"))
    if centre is not None and width is not None:
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width <= 0:
            raise FedMergeError(
                f"has a window that cannot be applied ({function}, width {width:g}): {ADVICE}."
            )
        return windowed(values, centre, width, function)
    same = float(header.get("RescaleSlope", 1)) == 1 and float(header.get("RescaleIntercept", 0)) == 0
    if bits <= 8 and not signed and same and "ModalityLUTSequence" not in header and not asked:
        return np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    raise FedMergeError(f"has {bits} bits and says no window: {ADVICE}.")


def _colour(header: Dataset, stored: np.ndarray, kind: str) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut

    if kind == "PALETTE COLOR":
        depth = int(header.RedPaletteColorLookupTableDescriptor[2])
        shown = apply_color_lut(stored, header)[..., :3]
        return (shown >> max(depth - 8, 0)).astype(np.uint8)
    bits = int(header.get("BitsStored", 8))
    if stored.dtype != np.uint8 or bits != 8:
        raise FedMergeError(f"has {bits} bits a colour: save it with 8.")
    return stored


def _padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Return which pixels are padding: bool, as ``stored``."""
    value = header.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return np.zeros(stored.shape, dtype=bool)
    other = header.get("PixelPaddingRangeLimit", value)
    ends = (int(value), int(other if not isinstance(other, bytes) else value))
    bits = int(header.BitsAllocated)
    if stored.dtype.kind == "i":  # often written without a sign
        ends = (_signed(ends[0], bits), _signed(ends[1], bits))
    low, high = sorted(ends)
    return (stored >= low) & (stored <= high)


def _signed(value: int, bits: int) -> int:
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def _spacing(header: Dataset) -> tuple[float, float] | None:
    given = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    try:
        rows, columns = (float(each) for each in given)
    except (TypeError, ValueError):
        return None
    return (rows, columns) if rows > 0 and columns > 0 else None


def _first(value: Any) -> float | None:
    """Return a number, or the first of several; None where there is none."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None
