"""DICOM files that must be refused: cut, of giant dimensions in the header or inside, deflated bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

Draw = np.random.Generator


def _meta(syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = UID(syntax)
    return meta


def dicom(pixels: bytes, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """Return a DICOM file that says it is 8 x 8 pixels of 8 bits, with other tags on top."""
    data = FileDataset("", {}, file_meta=_meta(syntax), preamble=bytes(128))
    usual = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": "1.2.3", "Rows": 8, "Columns": 8}
    usual |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    usual |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    for name, value in (usual | tags).items():
        setattr(data, name, value)
    data.PixelData = pixels
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = syntax != ExplicitVRLittleEndian
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def encapsulated(frame: bytes, syntax: str) -> bytes:
    """Return a DICOM file around a compressed image."""
    return dicom(encapsulate([frame]), syntax)


def jpeg(width: int, height: int) -> bytes:
    """Return the begin of a JPEG that says it is this large."""
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08" + struct.pack(">HH", height, width) + bytes(40)


def jpeg_2000(width: int, height: int) -> bytes:
    """Return the begin of a JPEG 2000 codestream that says it is this large."""
    sizes = struct.pack(">8IH3B", width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", 41, 0) + sizes + bytes(40)


def deflated(count: int) -> bytes:
    """Return a DICOM file of a few bytes that is this long once it is unpacked."""
    file = DicomBytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(file, _meta(DeflatedExplicitVRLittleEndian), enforce_standard=True)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = b"\xe0\x7f\x10\x00OB\x00\x00" + struct.pack("<I", count)
    file.write(packer.compress(head) + packer.compress(bytes(count)) + packer.flush())
    return bytes(file.getvalue())


def _cut(rng: Draw) -> bytes:
    whole = dicom(rng.bytes(64))
    return whole[: rng.integers(140, len(whole) - 1)]


def _giant(rng: Draw) -> int:
    return int(rng.integers(8193, 2**16))


DICOM_KINDS: dict[str, Callable[[Draw], bytes]] = {
    "DICOM cut": _cut,
    "DICOM of giant dimensions": lambda rng: dicom(rng.bytes(64), Rows=_giant(rng), Columns=_giant(rng)),
    "DICOM around a giant JPEG": lambda rng: encapsulated(jpeg(_giant(rng), _giant(rng)), JPEGBaseline8Bit),
    "DICOM around a giant JPEG 2000": lambda rng: encapsulated(
        jpeg_2000(int(rng.integers(8193, 2**31)), int(rng.integers(1, 2**31))), JPEG2000Lossless
    ),
    "DICOM bomb": lambda rng: deflated(50_000_000),
}
