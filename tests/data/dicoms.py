"""Writes small DICOM files for tests: every tag by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)


def dicom(
    path: Path, pixels: np.ndarray | None, syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> FileDataset:
    """Write pixels, H x W (or H x W x 3, or frames first), with tags over the usual ones; None leaves one
    out.

    The file is saved and returned, so that a test may go on with it.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    usual: dict[str, Any] = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID}
    usual |= {"Modality": "CR", "PatientName": "Doe^Jane", "PatientID": "P-1"}
    if pixels is not None:
        bits = pixels.dtype.itemsize * 8
        colour = pixels.ndim == 3 and "NumberOfFrames" not in tags
        usual |= {"Rows": pixels.shape[-3 if colour else -2], "Columns": pixels.shape[-2 if colour else -1]}
        usual |= {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        usual |= {"PixelRepresentation": int(pixels.dtype.kind == "i"), "SamplesPerPixel": 3 if colour else 1}
        usual |= {"PhotometricInterpretation": "RGB" if colour else "MONOCHROME2"}
        usual |= {"PlanarConfiguration": 0} if colour else {}
        usual["PixelData"] = pixels.tobytes()
    for name, value in (usual | tags).items():
        if value is not None:
            setattr(data, name, value)
    data.set_original_encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    data.save_as(path, enforce_file_format=True)
    return data


def lut(values: list[int], bits: int, first: int = 0) -> pydicom.Sequence:
    """A lookup table of 16-bit words as an item of a sequence."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return pydicom.Sequence([item])


def lossless_jpeg(pixels: np.ndarray, precision: int) -> bytes:
    """Return grey pixels, H x W of ``precision`` bits, as a lossless JPEG (ITU-T T.81, process 14).

    Each pixel is predicted by its left neighbour (predictor 1), the first of a row by the one above, the very
    first by half the range. The Huffman code of a difference's 17 sizes is their number in 5 bits.
    """
    values, bits = pixels.astype(int), ""
    for (row, column), value in np.ndenumerate(values):
        above = values[row - 1, 0] if row else 2 ** (precision - 1)
        off = int(value - (values[row, column - 1] if column else above))
        size = abs(off).bit_length()
        rest = off if off > 0 else off + 2**size - 1
        bits += f"{size:05b}" + (f"{rest:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    parts = {
        0xC3: bytes([precision]) + struct.pack(">HH", *pixels.shape) + b"\1\1\x11\0",
        0xC4: b"\0" + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)]),
        0xDA: b"\1\1\0\1\0\0",
    }
    heads = (bytes([0xFF, mark]) + struct.pack(">H", len(part) + 2) + part for mark, part in parts.items())
    return b"\xff\xd8" + b"".join(heads) + scan + b"\xff\xd9"
