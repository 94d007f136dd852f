"""Writes small DICOM files for tests: every tag by hand."""

from __future__ import annotations

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
