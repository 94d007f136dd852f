"""From the files of a body to images; what is not wholly and surely an image is refused by name."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedmerge.data.files.dicom import read_dicom
from fedmerge.data.files.dicom_size import dicom_size
from fedmerge.data.files.one import as_tensor
from fedmerge.data.files.pictures import read_picture
from fedmerge.data.reading import ReadOptions
from fedmerge.data.sources.npz_sizes import check_sizes
from fedmerge.errors import FedMergeError
from fedmerge.extras import extra
from fedmerge.serving.limits import MIB, Limits
from fedmerge.serving.refusal import Refusal

T = TypeVar("T")
Reader = Callable[[str, bytes, Limits, ReadOptions], Tensor]
KINDS = "PNG, JPEG, DICOM or npz"
KEY = "images"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_ARRAYS = 16


def read_images(
    parts: Sequence[tuple[str, bytes]], limits: Limits, read: ReadOptions
) -> tuple[list[str], list[Tensor]]:
    """Return a name for each image, and the pictures, uint8 n x C x H x W each, in the order of the parts.

    PNG, JPEG and DICOM are read as a cohort's files are (``data.files``), by ``read``. An npz has one array,
    ``images``, uint8 N x H x W or N x H x W x 3. Raises Refusal: 413 for too many, too large or too packed
    images, 415 for other files, 422 for damaged ones.
    """
    names: list[str] = []
    pictures: list[Tensor] = []
    room = limits.unpacked_bytes
    for name, content in parts:
        found = _reader_of(name, content)(name, content, limits, read)
        room -= found.numel()
        if len(names) + len(found) > limits.images:
            raise Refusal(413, f"the body has more than {limits.images} images: send smaller batches.")
        if room < 0:
            raise Refusal(
                413,
                f"the images have more than {limits.unpacked_bytes / MIB:g} MiB of pixels: send smaller "
                "batches.",
            )
        pictures.append(found)
        names += [name] if len(found) == 1 else [f"{name} [{index}]" for index in range(len(found))]
    return names, pictures


def _reader_of(name: str, content: bytes) -> Reader:
    if content.startswith((PNG, b"\xff\xd8\xff")):
        return _picture
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _arrays
    if content[128:132] == b"DICM":
        return _dicom
    raise Refusal(415, f"{name} is not {KINDS} by its content: send one of these.")


def _picture(name: str, content: bytes, limits: Limits, read: ReadOptions) -> Tensor:
    """Read a PNG or a JPEG whose end is there: decoders fill in what is missing, and say nothing."""
    png = content.startswith(PNG)
    whole = _is_whole_png(content) if png else content.rstrip(b"\0").endswith(b"\xff\xd9")
    if not whole:
        raise Refusal(422, f"{name} is damaged, cut short, or more than one image: send it anew.")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise Refusal(
            413, f"{name} says that it has more pixels than any image of a patient: scale it down."
        ) from None
    except Exception:  # decoders raise anything
        raise Refusal(422, f"{name} cannot be read as an image: send it anew.") from None
    _check_size(name, height, width, limits)
    with in_memory(content) as file:
        return _refusing(lambda: read_picture(file, read), name, str(file))


def _dicom(name: str, content: bytes, limits: Limits, read: ReadOptions) -> Tensor:
    """Read a DICOM file, whose size is checked before it is decoded; of the patient nothing is kept."""
    try:
        with extra("dicom", f"{name} is DICOM, which", "send PNG, JPEG or npz"):
            import pydicom  # noqa: F401
    except FedMergeError as error:
        raise Refusal(415, str(error)) from None
    with in_memory(content) as file:
        _check_size(name, *_refusing(lambda: dicom_size(file), name, str(file)), limits)
        return as_tensor(_refusing(lambda: read_dicom(file, read), name, str(file)).pixels)


def _is_whole_png(content: bytes) -> bool:
    """Whether every chunk of a PNG is there, with the checksum that it says, and nothing behind the last."""
    at = len(PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content) or content[end : end + 4] != zlib.crc32(content[at + 4 : end]).to_bytes(4):
            return False
        if content[at + 4 : at + 8] == b"IEND":
            return not content[end + 4 :].strip(b"\0")
        at = end + 4
    return False


def _arrays(name: str, content: bytes, limits: Limits, read: ReadOptions) -> Tensor:
    """Read the array ``images`` of an npz; nothing is unpickled, and sizes are checked before unpacking."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if KEY not in archive.files or len(archive.files) > MOST_ARRAYS:
                has = (
                    f"{len(archive.files)} arrays"
                    if len(archive.files) != 1
                    else f"the array '{archive.files[0][:60]}'"
                )
                raise Refusal(
                    422,
                    f"{name} has {has}: an npz needs one array '{KEY}', as np.savez(FILE, images=x) writes.",
                )
            for entry in archive.zip.infolist():
                if entry.file_size > limits.unpacked_bytes:
                    raise Refusal(
                        413,
                        f"{name} unpacks to more than {limits.unpacked_bytes / MIB:g} MiB: send smaller "
                        "batches.",
                    )
            _refusing(lambda: check_sizes(Path(name), archive.zip, [KEY]), name, name)
            array = archive[KEY]
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        KeyError,
    ):
        raise Refusal(
            422,
            f"{name} is no whole npz of plain numbers: save uint8 images with np.savez_compressed, and send "
            "it anew.",
        ) from None
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise Refusal(
            422,
            f"{name}: '{KEY}' should be uint8 (0 to 255), N x H x W or N x H x W x 3, but is {array.dtype} "
            f"of shape {array.shape[:8]}.",
        )
    if 0 in array.shape:
        raise Refusal(422, f"{name}: '{KEY}' is empty, of shape {array.shape}: send images.")
    if len(array) > limits.images:
        raise Refusal(
            413, f"{name} has {len(array):,} images, more than {limits.images}: send smaller batches."
        )
    _check_size(name, array.shape[1], array.shape[2], limits)
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    return (pixels[:, None] if array.ndim == 3 else pixels.permute(0, 3, 1, 2)).contiguous()


def _check_size(name: str, height: int, width: int, limits: Limits) -> None:
    if max(height, width) > limits.side or height * width > limits.pixels:
        raise Refusal(
            413,
            f"{name} has {width:,} x {height:,} pixels; {limits.side:,} a side and {limits.pixels:,} in all "
            "are the most: scale it down.",
        )


@contextmanager
def in_memory(content: bytes) -> Iterator[Path]:
    """Make a file that is in memory alone, for readers that take paths; it is gone after the block."""
    descriptor = os.memfd_create("image")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _refusing(read: Callable[[], T], name: str, file: str) -> T:
    """Return what ``read`` returns; its FedMergeError is a Refusal, in which ``file`` is called ``name``."""
    try:
        return read()
    except FedMergeError as error:
        raise Refusal(422, str(error).replace(file, name)) from None
