"""What an image file says of itself: honoured, or refused by name. Expected pixels are by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fedmerge.data.files.pictures import is_picture, read_picture
from fedmerge.errors import FedMergeError
from tests.facts import refused

GREY = np.array([[0, 40, 80], [120, 160, 200]], np.uint8)
"""Two rows, three columns."""


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(depth: int, colour: int, pixel: bytes, *extra: bytes) -> bytes:
    """A PNG of 1 x 1 px, written byte by byte: Pillow itself writes no 16-bit RGB."""
    header = struct.pack(">IIBBBBB", 1, 1, depth, colour, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(b"\0" + pixel)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def values(file: Path) -> list[list[int]]:
    """The first channel."""
    return read_picture(file)[0, 0].tolist()


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.bmp", "a.gif", "a.webp", "a.pgm", "a.jp2"])
def test_every_kind_that_keeps_its_pixels_gives_them(tmp_path: Path, name: str) -> None:
    lossless = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(GREY).save(tmp_path / name, **lossless)
    assert values(tmp_path / name) == GREY.tolist()
    assert is_picture(tmp_path / name)


def test_the_content_tells_the_kind_and_not_the_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "a"):
        Image.fromarray(GREY).save(tmp_path / name, format="TIFF")
        assert values(tmp_path / name) == GREY.tolist()
        assert is_picture(tmp_path / name)
    (tmp_path / "b").write_bytes(b"hello")
    assert not is_picture(tmp_path / "b")


TURNED = {
    1: GREY,
    2: GREY[:, ::-1],  # mirrored
    3: GREY[::-1, ::-1],  # upside down
    4: GREY[::-1],
    5: GREY.T,
    6: np.rot90(GREY, -1),  # a quarter clockwise
    7: GREY[::-1, ::-1].T,
    8: np.rot90(GREY),
}
"""How a picture of each EXIF orientation is to be seen (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [0, *TURNED, 9])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    """0 and 9 say nothing."""
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(GREY).convert("RGB").save(tmp_path / f"a.{kind}", exif=exif, **lossless)
    assert values(tmp_path / f"a.{kind}") == TURNED.get(orientation, GREY).tolist()


def test_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    """Left black and right white, turned a quarter clockwise: above black."""
    sides = np.repeat(np.array([[0] * 8 + [255] * 8], np.uint8), 16, axis=0)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(sides).save(tmp_path / "a.jpg", exif=exif)
    seen = read_picture(tmp_path / "a.jpg")[0, 0].float()
    assert seen[:8].max() < 10
    assert seen[8:].min() > 245


OPAQUE = {
    "RGBA": np.array([[[1, 2, 3, 255], [4, 5, 6, 255]]], np.uint8),
    "LA": np.array([[[1, 255], [4, 255]]], np.uint8),
}


@pytest.mark.parametrize("mode", OPAQUE)
def test_opaque_alpha_is_dropped_and_a_transparent_pixel_refused(tmp_path: Path, mode: str) -> None:
    pixels = OPAQUE[mode].copy()
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    assert values(tmp_path / "a.png") == [[1, 4]]
    assert read_picture(tmp_path / "a.png").shape[1] == (3 if mode == "RGBA" else 1)
    pixels[0, 1, -1] = 254
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    with refused("a.png", 1, 2):
        read_picture(tmp_path / "a.png")


def test_a_transparent_colour_counts_where_it_occurs(tmp_path: Path) -> None:
    """Grey 5 is transparent: one image has it. A palette of which one entry is, likewise."""
    (tmp_path / "not.png").write_bytes(png(8, 0, b"\x04", chunk(b"tRNS", b"\0\x05")))
    assert values(tmp_path / "not.png") == [[4]]
    (tmp_path / "is.png").write_bytes(png(8, 0, b"\x05", chunk(b"tRNS", b"\0\x05")))
    (tmp_path / "rgb.png").write_bytes(png(8, 2, b"\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3")))
    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.gif", transparency=0)
    for name in ("is.png", "rgb.png", "palette.gif"):
        with refused(1, "transparent", "pixels"):
            read_picture(tmp_path / name)


DEEP = {
    "rgb.png": png(16, 2, b"\x12\x34" * 3),
    "grey.png": png(16, 0, b"\x12\x34"),
    "grey-alpha.png": png(16, 4, b"\x12\x34\xff\xff"),
    "rgba.png": png(16, 6, b"\x12\x34" * 3 + b"\xff\xff"),
    "rgb.ppm": b"P6 1 1 65535\n" + b"\x12\x34" * 3,
    "plain.ppm": b"P3 1 1 1023\n1 2 3\n",
    "grey.pgm": b"P5 1 1 65535\n\x12\x34",
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused_whatever_pillow_makes_of_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DEEP[name])
    with refused(name, "8-bit", "image"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("kind", ["tif", "jp2"])
def test_more_than_8_bits_of_tiff_and_jpeg_2000_are_refused(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / f"a.{kind}")
    with refused("8-bit", "16 bits", "I"):
        read_picture(tmp_path / f"a.{kind}")


def rgb_tiff(bits: int, sample_format: int = 1) -> bytes:
    """A TIFF of one RGB pixel, written byte by byte."""
    pixel = b"\x12" * (3 * bits // 8)
    tags = [
        (256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 240),
        (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, len(pixel)), (339, 3, 3, 220),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0)
    head = head.ljust(200, b"\0") + struct.pack("<HHH", bits, bits, bits)
    return head.ljust(220, b"\0") + struct.pack("<HHH", *[sample_format] * 3).ljust(20, b"\0") + pixel


def test_16_bit_rgb_in_tiff_is_refused_and_signed_bytes_are(tmp_path: Path) -> None:
    for name, content in {"good": rgb_tiff(8), "deep": rgb_tiff(16), "signed": rgb_tiff(8, 2)}.items():
        (tmp_path / f"{name}.tif").write_bytes(content)
    assert values(tmp_path / "good.tif") == [[0x12]]
    for name in ("deep", "signed"):
        with refused(f"{name}.tif"):
            read_picture(tmp_path / f"{name}.tif")


def test_fewer_bits_are_spread_over_0_to_255(tmp_path: Path) -> None:
    """4 bits: level 4 of 15 is 68 of 255; 1 bit: white is 255."""
    (tmp_path / "four.png").write_bytes(png(4, 0, b"\x40"))
    (tmp_path / "one.png").write_bytes(png(1, 0, b"\x80"))
    assert values(tmp_path / "four.png") == [[68]]
    assert values(tmp_path / "one.png") == [[255]]


@pytest.mark.parametrize(
    ("mode", "name"), [("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("LAB", "a.tif"), ("YCbCr", "a.tif")]
)
def test_other_colours_are_refused_by_name(tmp_path: Path, mode: str, name: str) -> None:
    image = Image.fromarray(GREY).convert("RGB")
    image.convert(mode).save(tmp_path / name)
    said = f"has the colours {mode}: save it as RGB or grey"
    unread = "|cannot be read" if mode == "YCbCr" else ""  # by Pillow 11.0, which writes it
    with pytest.raises(FedMergeError, match=said + unread):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_images_in_one_file_are_refused(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(GREY)
    image.save(tmp_path / name, save_all=True, append_images=[image.rotate(180)])
    with refused("2 images", "holds"):
        read_picture(tmp_path / name)


def gamma_profile(gamma: float) -> bytes:
    """A grey ICC profile of one gamma (ICC.1:2001, type curv with one entry, 8.8 fixed point)."""

    def tagged(kind: bytes, content: bytes) -> bytes:
        whole = kind + b"\0\0\0\0" + content
        return whole.ljust(-(-len(whole) // 4) * 4, b"\0")

    text = b"a gamma"
    described = struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(4 + 4 + 2 + 1 + 67)
    white = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    tags = [
        (b"desc", tagged(b"desc", described)),
        (b"wtpt", tagged(b"XYZ ", white)),
        (b"kTRC", tagged(b"curv", struct.pack(">IH", 1, round(gamma * 256)))),
    ]
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ").ljust(36, b"\0")
    return (head + b"acsp").ljust(68, b"\0") + white + bytes(48) + table + body


def test_a_colour_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    """Linear light of 55 / 255 = 0.216 is 1.055 x 0.216^(1 / 2.4) - 0.055 = 0.502 in sRGB: 128."""
    image = Image.fromarray(np.full((2, 2), 55, np.uint8))
    image.save(tmp_path / "linear.png", icc_profile=gamma_profile(1.0))
    assert abs(values(tmp_path / "linear.png")[0][0] - 128) <= 1
    assert read_picture(tmp_path / "linear.png").shape == (1, 1, 2, 2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert values(tmp_path / "srgb.png") == [[55, 55], [55, 55]]
    image.convert("RGB").save(tmp_path / "bad.png", icc_profile=b"none" * 40)
    with refused("bad.png", "sRGB"):
        read_picture(tmp_path / "bad.png")


def test_a_png_of_another_gamma_is_refused(tmp_path: Path) -> None:
    for name, gamma in (("usual", 45455), ("linear", 100000)):
        (tmp_path / f"{name}.png").write_bytes(png(8, 0, b"\x04", chunk(b"gAMA", struct.pack(">I", gamma))))
    assert values(tmp_path / "usual.png") == [[4]]
    with refused("linear.png", "PNG", 1):
        read_picture(tmp_path / "linear.png")


def test_an_empty_and_a_damaged_file_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "bad.png").write_bytes(png(8, 0, b"\x04")[:45])
    with refused("empty.png", "0 bytes"):
        read_picture(tmp_path / "empty.png")
    with refused("bad.png", "read"):
        read_picture(tmp_path / "bad.png")
