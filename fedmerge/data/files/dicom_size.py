"""Say how many pixels a DICOM file would decode to, without decoding it; for files from strangers.

A header of a few bytes can ask for gigabytes: its own numbers, the size inside a compressed image, which
need not be the header's, or a file that is deflated as a whole.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.errors import FedMergeError
from fedmerge.extras import extra

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG behind which its size stands (of JPEG-LS: F7); ITU-T T.81, table B.1, and T.87."""
MOST_PARTS = 4
"""Colours of one image."""


def dicom_size(file: Path) -> tuple[int, int]:
    """Return the rows and columns that a DICOM file says, of header and compressed image the larger.

    Runs of equal bytes (RLE) are unpacked no further than the header says, so its size is enough there.
    Raises FedMergeError that begins with the file's name for one that is deflated, whose size nothing says,
    and for one that cannot be read so far.
    """
    with extra("dicom", "a DICOM file"):
        import pydicom
        from pydicom.filereader import read_file_meta_info
        from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = read_file_meta_info(file).TransferSyntaxUID
            if syntax == DeflatedExplicitVRLittleEndian:
                raise FedMergeError("is deflated as a whole: save it without that.")
            header = pydicom.dcmread(file)
            rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
            if "PixelData" in header and syntax.is_encapsulated and syntax != RLELossless:
                inner = _coded_size(_first_frame(header))
                rows, columns = max(rows, inner[0]), max(columns, inner[1])
            return rows, columns
    except FedMergeError as error:
        raise FedMergeError(f"{file} {error}") from None
    except Exception as error:  # readers of values raise whatever they please
        why = f"{type(error).__name__}; it may be cut short"
        raise FedMergeError(f"{file} cannot be read as DICOM ({why}): replace it.") from None


def _first_frame(header: Dataset) -> bytes:
    """Return the compressed image that is decoded."""
    from pydicom.encaps import get_frame

    frames = int(header.get("NumberOfFrames", 1) or 1)
    offsets = None
    if "ExtendedOffsetTable" in header:
        offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    return get_frame(header.PixelData, 0, number_of_frames=frames, extended_offsets=offsets)


def _coded_size(frame: bytes) -> tuple[int, int]:
    """Return rows and columns of a compressed image. Raises FedMergeError where it does not say them."""
    if frame.startswith(JPEG_2000):
        right, lower, left, upper = struct.unpack_from(">4I", frame, 8)
        rows, columns, (parts,) = lower - upper, right - left, struct.unpack_from(">H", frame, 40)
    elif frame.startswith(JPEG):
        rows, columns, parts = _jpeg_size(frame)
    else:
        raise FedMergeError("holds an image that is no JPEG: save it uncompressed.")
    if rows < 1 or columns < 1 or parts > MOST_PARTS:
        raise FedMergeError(f"holds an image of {columns} x {rows} pixels and {parts} colours: replace it.")
    return rows, columns


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    """Return rows, columns and colours of a JPEG, from the first marker that says them."""
    at = len(JPEG)
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xFF:  # filling
            at += 1
            continue
        if frame[at + 1] in SIZES:
            rows, columns, parts = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, parts
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise FedMergeError("holds a JPEG without a size: replace it.")
