"""Malformed bodies against a service: none may be accepted, none may end it, and its memory stays flat.

Cut, packed beyond measure, of wrong types, with dimensions that no image has, with parts that do not end,
with tokens that nobody has. Every kind is drawn again and again from a seed. Between them honest batches
must be answered as before. Run `python -m benchmarks.simulations.hostile_bodies --out
benchmarks/results/hostile-bodies.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.simulations.hostile_dicom import DICOM_KINDS
from benchmarks.speed.serving import Running, models_in, npz

PNG = b"\x89PNG\r\n\x1a\n"
Draw = np.random.Generator


@dataclass(frozen=True)
class Hostile:
    """A call that must be refused."""

    kind: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""


def picture(rng: Draw, form: str = "PNG", shape: tuple[int, ...] = (24, 24), **options: Any) -> bytes:
    """Return a good picture's bytes."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file, form, **options)
    return file.getvalue()


def cut(rng: Draw, content: bytes) -> bytes:
    """Return the begin of a file, at least its magic number, never its end."""
    return content[: rng.integers(12, len(content) - 4)]


def flipped(rng: Draw, content: bytes, begin: int, end: int) -> bytes:
    """Return a file with one changed byte between two places."""
    changed = bytearray(content)
    changed[rng.integers(begin, end)] ^= int(rng.integers(1, 256))
    return bytes(changed)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG that says it is this large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def array_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """Return the begin of an .npy file that says this shape, without its numbers."""
    text = str({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(name: str, content: bytes) -> bytes:
    """Return a zip file with one packed file in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    """Return a multipart body with boundary b."""
    head = b'--b\r\ncontent-disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    return b"".join(head + part + b"\r\n" for part in parts) + end


TYPE, TOKEN = "content-type", "authorization"
FORM = {TYPE: "multipart/form-data; boundary=b"}


def pickled(rng: Draw) -> bytes:
    """Return an npz that would run code where it is unpickled."""
    file = io.BytesIO()
    np.savez(file, images=np.array([{"a": rng.integers(9)}], dtype=object))
    return file.getvalue()


def floats(rng: Draw, fill: float) -> bytes:
    """Return an npz of floats."""
    images = rng.random((3, 8, 8))
    images[0, 0, 0] = fill
    return npz(images)


def odd_shape(rng: Draw) -> bytes:
    """Return an npz of bytes in a shape that no batch has."""
    shapes = [(), (7,), (3, 3), (2, 8, 8, 4), (2, 8, 8, 1), (1, 2, 8, 8, 3), (0, 8, 8), (2, 0, 8), (2, 8, 0)]
    return npz(np.zeros(shapes[rng.integers(len(shapes))], np.uint8))


KINDS: dict[str, Callable[[Draw], Hostile | bytes]] = {
    "nothing": lambda rng: b"",
    "noise": lambda rng: rng.bytes(rng.integers(1, 4000)),
    "noise that begins as PNG": lambda rng: PNG + rng.bytes(rng.integers(1, 4000)),
    "noise that begins as JPEG": lambda rng: b"\xff\xd8\xff" + rng.bytes(900) + b"\xff\xd9",
    "noise that begins as zip": lambda rng: b"PK\x03\x04" + rng.bytes(900),
    "noise that begins as DICOM": lambda rng: bytes(128) + b"DICM" + rng.bytes(900),
    "PNG cut": lambda rng: cut(rng, picture(rng)),
    "JPEG cut": lambda rng: cut(rng, picture(rng, "JPEG")),
    "npz cut": lambda rng: cut(rng, npz(rng.integers(0, 256, (4, 8, 8), dtype=np.uint8))),
    "PNG with a changed byte": lambda rng: flipped(rng, picture(rng), 41, 300),
    "npz with a changed byte": lambda rng: flipped(
        rng, npz(rng.integers(0, 256, (4, 16, 16), dtype=np.uint8)), 200, 600
    ),
    "PNG of giant dimensions": lambda rng: bomb(
        int(rng.integers(2**16, 2**31 - 1)), int(rng.integers(1, 2**31 - 1)), b"\0" * 100
    ),
    "PNG that unpacks to 10 km": lambda rng: bomb(10_000, 10_000, bytes(1_000_000)),
    "PNG one pixel high, too wide": lambda rng: bomb(int(rng.integers(8193, 60_000)), 1, bytes(60_001)),
    "npz of a giant shape": lambda rng: zipped(
        "images.npy", array_header((int(rng.integers(1, 2**40)), 4096, 4096)) + bytes(1000)
    ),
    "npz of a negative shape": lambda rng: zipped("images.npy", array_header((-1, 8, 8)) + bytes(640)),
    "npz too wide": lambda rng: npz(np.zeros((1, 1, int(rng.integers(8193, 20_000))), np.uint8)),
    "npz of too many images": lambda rng: npz(np.zeros((int(rng.integers(257, 5000)), 2, 2), np.uint8)),
    "npz bomb": lambda rng: zipped("images.npy", array_header((300, 1000, 1000)) + bytes(300_000_000)),
    "npz of an odd shape": odd_shape,
    "npz of NaN": lambda rng: floats(rng, float("nan")),
    "npz of infinity": lambda rng: floats(rng, float("inf")),
    "npz of floats": lambda rng: floats(rng, 0.5),
    "npz of int64": lambda rng: npz(rng.integers(0, 256, (3, 8, 8))),
    "npz of text": lambda rng: npz(np.array([["a", "b"]])),
    "npz under another key": lambda rng: npz(np.zeros((3, 8, 8), np.uint8), "pixels"),
    "npz with pickles": pickled,
    "zip without arrays": lambda rng: zipped("a.txt", rng.bytes(50)),
    "pickle": lambda rng: pickle.dumps(list(rng.integers(0, 9, 9))),
    "GIF": lambda rng: picture(rng, "GIF"),
    "BMP": lambda rng: picture(rng, "BMP"),
    "JSON": lambda rng: json.dumps({"images": [[float(rng.random())]]}).encode(),
    "HTML": lambda rng: b"<!doctype html><script>alert(1)</script>",
    "PNG of 16 bits": lambda rng: _png16(rng),
    "PNG with transparent pixels": lambda rng: picture(rng, shape=(9, 9, 4)),
    "PNG of many frames": lambda rng: _frames(rng),
    "JPEG of inks": lambda rng: _inks(rng),
    **DICOM_KINDS,
    "form without an end": lambda rng: Hostile("", form(picture(rng), end=b""), FORM),
    "form cut": lambda rng: Hostile("", cut(rng, form(picture(rng), picture(rng))), FORM),
    "form without parts": lambda rng: Hostile("", b"--b--\r\n", FORM),
    "form with an empty part": lambda rng: Hostile("", form(picture(rng), b""), FORM),
    "form with one bad part": lambda rng: Hostile("", form(picture(rng), rng.bytes(99)), FORM),
    "form of too many parts": lambda rng: Hostile("", form(*[picture(rng, shape=(2, 2))] * 300), FORM),
    "form without a boundary": lambda rng: Hostile("", form(picture(rng)), {TYPE: "multipart/form-data"}),
    "form with a giant header": lambda rng: Hostile(
        "", b"--b\r\nx: " + b"a" * 70_000 + b"\r\n\r\nx\r\n--b--\r\n", FORM
    ),
    "packed body": lambda rng: Hostile("", zlib.compress(picture(rng)), {"content-encoding": "deflate"}),
    "no token": lambda rng: Hostile("", picture(rng), {TOKEN: ""}),
    "another scheme": lambda rng: Hostile("", picture(rng), {TOKEN: "Basic " + rng.bytes(9).hex()}),
    "an unknown token": lambda rng: Hostile("", picture(rng), {TOKEN: "Bearer " + rng.bytes(32).hex()}),
    "a stream that is no name": lambda rng: Hostile("", picture(rng), query="?stream=" + "../" * 9),
    "a stream of too long a name": lambda rng: Hostile("", picture(rng), query="?stream=" + "a" * 65),
    "another site's page": lambda rng: Hostile("", picture(rng), {"origin": "https://evil.example"}),
    "another name": lambda rng: Hostile("", picture(rng), {"host": "evil.example"}),
}


def _png16(rng: Draw) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 2**16, (9, 9)).astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def _frames(rng: Draw) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _inks(rng: Draw) -> bytes:
    file = io.BytesIO()
    Image.frombytes("CMYK", (9, 9), rng.bytes(324)).save(file, "JPEG")
    return file.getvalue()


def hostile(count: int, seed: int = 0) -> Iterator[Hostile]:
    """Yield calls that must be refused, each kind in turn; the bomb that takes a second to pack only once."""
    rng, packed = np.random.default_rng(seed), dict[str, Hostile | bytes]()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        if kind == "npz bomb":
            packed.setdefault(kind, KINDS[kind](rng))
        made = packed.get(kind) or KINDS[kind](rng)
        call = made if isinstance(made, Hostile) else Hostile(kind, made)
        yield Hostile(kind, call.body, call.headers, call.query)


def attack(client: httpx.Client, call: Hostile) -> int:
    """Send a call and return the status of its answer."""
    return client.post("/v1/batches" + call.query, content=call.body, headers=call.headers).status_code


def measure(count: int, batches: int) -> dict[str, Any]:
    """Send ``count`` hostile calls, an honest batch after every tenth, then ``batches`` honest ones."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with Running(models_in(place / "models"), place, token=True) as running:
            honest = npz(np.random.default_rng(1).integers(0, 256, (16, 28, 28), dtype=np.uint8))
            statuses, accepted, worse, failed = Counter[int](), Counter[str](), 0, 0
            process = psutil.Process(running.process.pid)
            with running.client() as client:
                for _ in range(50):
                    client.post("/v1/batches", content=honest).raise_for_status()
                before = process.memory_info().rss
                for number, call in enumerate(hostile(count)):
                    status = attack(client, call)
                    statuses[status] += 1
                    accepted[call.kind] += status < 400
                    worse += status >= 500
                    if number % 10 == 9:
                        failed += client.post("/v1/batches", content=honest).status_code != 200
                after = process.memory_info().rss
                flat = steady(client, process, honest, batches)
    return {
        "calls": count,
        "kinds": len(KINDS),
        "accepted": sum(accepted.values()),
        "accepted kinds": [kind for kind, times in accepted.items() if times],
        "answers of 500 and above": worse,
        "statuses": dict(sorted(statuses.items())),
        "honest batches between that failed": failed,
        "memory_mb": {"before": round(before / 1e6, 1), "after": round(after / 1e6, 1)},
        "steady": flat,
    }


def steady(client: httpx.Client, process: psutil.Process, honest: bytes, batches: int) -> dict[str, Any]:
    """Send honest batches, and note the memory after each tenth of them."""
    memory = []
    for number in range(batches):
        client.post("/v1/batches", content=honest).raise_for_status()
        if number % max(batches // 10, 1) == 0:
            memory.append(round(process.memory_info().rss / 1e6, 1))
    return {"batches": batches, "images": 16 * batches, "memory_mb": memory}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=580)
    parser.add_argument("--batches", type=int, default=2500)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(args.calls, args.batches), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
