"""Pictures with odd bits, colours or pages: the right pixels, by hand, or a sentence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from facts import refused
from PIL import Image

from fedmerge.data.files.one import Item, read_image
from fedmerge.data.reading import ReadOptions
from tests.data.odd_files import AS_WINDOW, COLOURS, DEEP, GREY, OddFiles, in_colours, look, of

odd = OddFiles()


def picture(path: Path, pixels: np.ndarray, kind: str, **how: Any) -> None:
    Image.fromarray(pixels).save(path, format=kind, **how)


WIDE = np.array([[0, 1000, 2000], [3000, 4000, 65535]], np.uint16)
odd("PNG of 16 bits without a window", (16, "window"))(of(picture, WIDE, "PNG"))
odd("PNG of 16 bits", AS_WINDOW, window=(2000.5, 2001))(of(picture, WIDE, "PNG"))
odd("PNG, all 16 bits", [[0, 4, 8], [12, 16, 255]], window="full")(of(picture, WIDE, "PNG"))
odd("PNG, percentiles", [[0, 62, 125], [187, 249, 255]], percentiles=(0, 100))(of(picture, DEEP, "PNG"))
odd("TIFF of 16 bits", AS_WINDOW, window=(2000.5, 2001))(of(picture, WIDE, "TIFF"))
odd("TIFF of 16 bits, packed", AS_WINDOW, window=(2000.5, 2001))(
    of(picture, WIDE, "TIFF", compression="tiff_lzw")
)
odd("JPEG 2000 of 16 bits", AS_WINDOW, window=(2000.5, 2001))(of(picture, WIDE, "JPEG2000"))
odd("8 bits need no window", GREY, window=(2000.5, 2001))(of(picture, GREY, "PNG"))
odd("TIFF of 32 bits", AS_WINDOW, window=(2000.5, 2001))(of(picture, DEEP.astype(np.int32), "TIFF"))
odd("TIFF of floats", AS_WINDOW, window=(2000.5, 2001))(of(picture, DEEP.astype(np.float32), "TIFF"))
odd("TIFF of floats, 0 to 1", [[0, 51, 102], [153, 204, 255]], window="full")(
    of(picture, (GREY / 255).astype(np.float32), "TIFF")
)
odd("NaN", ("finite",), window="full")(of(picture, np.array([[0, np.nan]], np.float32), "TIFF"))
odd("white is 0, 8 bits", 255 - GREY)(of(lambda path: tiff(path, GREY, 0)))
odd("white is 0, 16 bits", [[255, 255, 127], [0, 0, 0]], window=(2000.5, 2001))(
    of(lambda path: tiff(path, DEEP, 0))
)
odd("16-bit colours", (16,), window="full")(of(lambda path: tiff(path, COLOURS.astype(np.uint16), 2)))
odd("CMYK", ("CMYK", "RGB"))(lambda path: Image.new("CMYK", (2, 2)).save(path, format="JPEG"))
odd("several pages", (2, "images"))(
    lambda path: Image.fromarray(GREY).save(
        path, format="TIFF", save_all=True, append_images=[Image.fromarray(GREY)]
    )
)


def tiff(path: Path, pixels: np.ndarray, photometric: int) -> None:
    """A TIFF written tag by tag, little endian, one strip. photometric: 0 white is zero, 1 black, 2 RGB."""
    bits, samples = pixels.dtype.itemsize * 8, 3 if pixels.ndim == 3 else 1
    data = pixels.tobytes()
    tags = [(256, 4, pixels.shape[1]), (257, 4, pixels.shape[0]), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, samples), (278, 4, pixels.shape[0]), (279, 4, len(data))]
    after = 8 + len(data)
    if samples == 3:
        tags.append((258, 3, None))
        data += struct.pack("<3H", bits, bits, bits)
    else:
        tags.append((258, 3, bits))
    start = 8 + len(data)
    entries = b""
    for tag, kind, value in sorted(tags):
        count = 3 if value is None else 1
        entries += struct.pack("<HHI", tag, kind, count) + struct.pack(
            "<I", after if value is None else value
        )
    body = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data + body)


@pytest.mark.parametrize("case", odd.cases)
def test_an_odd_file_gives_the_right_pixels_or_a_sentence(tmp_path: Path, case: str) -> None:
    odd.check(case, tmp_path / "a")


PICTURES: dict[str, tuple[Any, Any]] = {
    "one bit": (lambda p: Image.fromarray(GREY > 100).save(p, format="PNG"), [[0, 0, 255], [255, 255, 255]]),
    "one bit, TIFF": (
        lambda p: Image.fromarray(GREY > 100).save(p, format="TIFF"),
        [[0, 0, 255], [255, 255, 255]],
    ),
    "two levels of a palette": (
        lambda p: Image.fromarray(GREY > 100).convert("P").save(p, format="PNG"),
        in_colours([[0, 0, 255], [255, 255, 255]]),
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


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refused("none.png", "not there"):
        read_image(Item(tmp_path / "none.png"), ReadOptions())
