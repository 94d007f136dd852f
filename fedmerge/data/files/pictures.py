"""Read one image file as pixels: follow what the file says about them, or refuse the file by name."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps
from torch import Tensor

from fedmerge.data.files.levels import ADVICE, to_bytes
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx",
)  # fmt: skip
KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF, PNM or JPEG 2000"
GREY = ("1", "L", "LA", "La")
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Grey of more than 8 bits, which a window or percentiles bring to 8."""
SRGB_GAMMA = 1 / 2.2
MOST_PIXELS = 100_000_000
"""Of one image; a header that says more is refused before anything is decoded."""


TOO_LARGE = f"has more than {MOST_PIXELS:,} pixels, which no image of one patient has: scale it down"


def is_picture(file: Path) -> bool:
    """Whether the file's content is an image of a supported kind; a damaged image is not."""
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:  # an image, which ``read_picture`` refuses by name
        return True
    except Exception:  # decoders raise anything for files of other kinds
        return False


def read_picture(file: Path, read: ReadOptions | None = None) -> Tensor:
    """Read one image as uint8 1 x C x H x W, grey (C = 1) or RGB (C = 3); its content decides its kind.

    read: its window or percentiles bring grey images of more than 8 bits to 8; images of 8 bits are left as
    they are.

    EXIF orientation is applied (unreadable EXIF is ignored), a colour profile is converted to sRGB
    (one that says sRGB is left alone), alpha is dropped where every pixel is opaque. Raises ``FedMergeError``
    that begins with the file's name for a file that is empty, damaged or of too many pixels, several images
    in one file, more than 8 bits a channel without ``read`` (of colours in any case, also where Pillow would
    take the upper 8), transparent pixels,
    colours other than grey and RGB (CMYK, Lab, YCbCr), a profile that cannot be applied, and a PNG of another
    gamma.
    """
    if file.stat().st_size == 0:
        raise FedMergeError(f"{file} is empty (0 bytes): replace or remove it.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            deep = read is not None and (read.window or read.percentiles) and _is_deep(image)
            if fault := _too_large(image) or _fault(image, bool(deep)):
                raise FedMergeError(f"{file} {fault}")
            limits, white = (_limits(image), _white_is_zero(image)) if deep else ((0.0, 255.0), False)
            image.load()
            upright = ImageOps.exif_transpose(image)
            if fault := _see_through(upright):
                raise FedMergeError(f"{file} {fault}")
            array = _deep_pixels(file, upright, read, limits, white) if deep and read else _pixels(upright)
    except FedMergeError:
        raise
    except Image.DecompressionBombError as error:
        raise FedMergeError(f"{file} {TOO_LARGE} ({str(error).partition(',')[0]}).") from None
    except ImageCms.PyCMSError as error:
        raise FedMergeError(
            f"{file} has a colour profile that cannot be applied ({error}): save it as sRGB."
        ) from None
    except Exception:  # decoders and EXIF readers raise whatever they please
        raise FedMergeError(f"{file} cannot be read as an image: replace or remove it.") from None
    pixels = torch.from_numpy(array)
    return pixels[None, None] if array.ndim == 2 else pixels.permute(2, 0, 1)[None]


def _too_large(image: ImageFile.ImageFile) -> str:
    """Return why an image is refused whose header says too many pixels; empty where it is not."""
    width, height = image.size
    return f"{TOO_LARGE} (it says {width:,} x {height:,})." if width * height > MOST_PIXELS else ""


def _is_deep(image: ImageFile.ImageFile) -> bool:
    return image.mode in DEEP and (_bits(image) > 8 or _signed(image))


def _limits(image: ImageFile.ImageFile) -> tuple[float, float]:
    """Return the least and the greatest value that a deep image's bits can say; of floats 0 and 1."""
    bits, kinds = _bits(image), ()
    if image.format == "TIFF":
        kinds = image.tag_v2.get(339, ())  # type: ignore[attr-defined]
    if 3 in kinds or image.mode == "F":
        return 0.0, 1.0
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if 2 in kinds else (0.0, 2.0**bits - 1)


def _white_is_zero(image: ImageFile.ImageFile) -> bool:
    return image.format == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]


def _deep_pixels(
    file: Path, image: Image.Image, read: ReadOptions, limits: tuple[float, float], white: bool
) -> np.ndarray:
    """Return a deep image's pixels as uint8 H x W, black as 0. white: 0 is white in the file."""
    options = read.model_copy(update={"window": None}) if read.window == "file" else read
    try:
        shown = to_bytes(np.asarray(image), options, limits)
    except FedMergeError as error:
        raise FedMergeError(f"{file} {error}") from None
    return 255 - shown if white else shown


def _fault(image: ImageFile.ImageFile, deep: bool) -> str:
    """Return why an image is refused by its header; empty where it is not. deep: more bits are fine."""
    frames, bits = getattr(image, "n_frames", 1), _bits(image)
    if frames > 1:
        return f"holds {frames} images (frames or pages): save the one that is meant as a file of its own."
    if deep:
        return ""
    if bits > 8 or _signed(image):
        found = f"{bits} bits a channel" if bits > 8 else "values that are no bytes"
        advice = f"{ADVICE}, or convert it to 8 bits" if _is_deep(image) else "convert it to 8 bits"
        return f"is not an 8-bit image (mode {image.mode}, {found}): {advice}."
    if image.mode not in GREY + COLOUR:
        return f"has the colours {image.mode}: save it as RGB or grey."
    gamma: float = image.info.get("gamma", SRGB_GAMMA)
    said = "srgb" in image.info or "icc_profile" in image.info
    if not said and abs(gamma / SRGB_GAMMA - 1) > 0.05:
        return f"is a PNG of gamma {gamma:.3g}, and not of sRGB (0.455): save it as sRGB."
    return ""


def _bits(image: ImageFile.ImageFile) -> int:
    """Return the bits a channel in the header; Pillow itself reads 16-bit RGB as 8 bits without a word."""
    if image.format == "TIFF":
        bits: tuple[int, ...] = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return max(bits)
    if image.format == "PPM":
        args = image.tile[0][3]
        return int(args[1]).bit_length() if isinstance(args, tuple) and image.mode != "F" else 8
    if image.format not in ("PNG", "JPEG2000"):
        return 8
    head = _head(image)
    if image.format == "PNG":
        return head[24]
    components = head.index(b"\xff\x4f\xff\x51") + 40  # after the marker SIZ: how many; then three bytes each
    (n,) = struct.unpack_from(">H", head, components)
    return max((head[components + 2 + 3 * i] & 0x7F) + 1 for i in range(n))


def _signed(image: ImageFile.ImageFile) -> bool:
    """Whether the image's values are signed or float, and not 0 to 255."""
    kinds = image.tag_v2.get(339, ()) if image.format == "TIFF" else ()  # type: ignore[attr-defined]
    return image.mode.startswith(("I", "F")) or not set(kinds) <= {1, 4}  # unsigned, or not said


def _head(image: ImageFile.ImageFile, n: int = 4096) -> bytes:
    """Return the first ``n`` bytes of the image's file."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    head: bytes = image.fp.read(n)
    image.fp.seek(place)
    return head


def _see_through(image: Image.Image) -> str:
    """Return why an image with transparent pixels is refused; empty where it has none."""
    if not image.has_transparency_data:
        return ""
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    clear = int((alpha < 255).sum())
    if not clear:
        return ""
    return (
        f"has {clear} transparent pixels of {alpha.size}, and what is behind them is not said: save it "
        "without transparency."
    )


def _pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels as uint8 H x W (grey) or H x W x 3 in sRGB."""
    mode, icc = "L" if image.mode in GREY else "RGB", image.info.get("icc_profile")
    plain = image.convert(mode)
    transform = _to_srgb(icc, mode) if icc else None
    if transform is None:
        return np.array(plain)
    shown = np.array(ImageCms.applyTransform(plain, transform))
    return shown[..., 0].copy() if mode == "L" else shown


@functools.lru_cache(maxsize=16)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB (three channels); None where it says that it is sRGB."""
    profile = ImageCms.getOpenProfile(io.BytesIO(icc))
    if "srgb" in ImageCms.getProfileDescription(profile).lower():
        return None
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
