"""Reads hostile files with 512 MiB to spare, and prints what each reader says; for ``test_hostile_files``."""

import json
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

from fedmerge.data.files.pictures import is_picture, read_picture
from fedmerge.data.sources.npz import KEYS, read_npz
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.reopen import read_mapping, read_table
from fedmerge.models.cards import read_card
from fedmerge.models.weights import load_weights
from fedmerge.schema.validation import load_yaml

SPARE = 512 * 2**20
SIDE = 50_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + body + chunk(b"IEND", b"")


def bmp(side: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, *[0] * 6)
    )


def gif(side: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, side, side, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def text_bomb() -> bytes:
    return chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**27), 9))


def npy(shape: str, data: bytes = bytes(64)) -> bytes:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def npz(path: Path, first: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    small = npy("(64,)")
    with zipfile.ZipFile(path, "w", how) as file:
        for key in KEYS:
            file.writestr(f"{key}.npy", first if key == KEYS[0] else small)


def npz_of_zeros(path: Path, length: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for key in KEYS[1:]:
            file.writestr(f"{key}.npy", npy("(64,)"))
        with file.open(f"{KEYS[0]}.npy", "w", force_zip64=True) as entry:
            entry.write(npy(f"({length // 2**20}, 1024, 1024)", b""))
            for _ in range(length // 2**20):
                entry.write(bytes(2**20))


def npz_that_lies(path: Path) -> None:
    """The list of contents says 3 GB, the header of the array, too; a few bytes are there."""
    npz(path, npy("(3000, 1000, 1000)"))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, place + 24, 3_000_000_128)
    path.write_bytes(bytes(content))


def tensors(path: Path, header: bytes, length: int | None = None, size: int = 0) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(8))
    if size:
        with path.open("r+b") as file:
            file.truncate(size)


def one_tensor(shape: list[int], end: int) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


def laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines)


def sparse(path: Path, size: int, begin: bytes = b"[") -> None:
    path.write_bytes(begin)
    with path.open("r+b") as file:
        file.truncate(size)


def make(folder: Path) -> dict[str, tuple]:
    """By case: what reads it, and the file."""

    def at(name: str, content: bytes | str) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    cases = {
        "png of 50,000 px": (read_picture, at("a.png", png(SIDE, SIDE))),
        "png of 2^31 px": (read_picture, at("b.png", png(2**31 - 1, 2**31 - 1))),
        "png just above": (read_picture, at("c.png", png(10_001, 10_000))),
        "png with packed text": (read_picture, at("d.png", png(8, 8, text_bomb()))),
        "bmp": (read_picture, at("e.bmp", bmp(SIDE))),
        "gif": (read_picture, at("f.gif", gif(SIDE))),
        "pnm": (read_picture, at("g.pgm", b"P5 50000 50000 255\n" + bytes(100))),
        "npz header of 10 GB": (read_npz, folder / "a.npz"),
        "npz header of 2^80": (read_npz, folder / "b.npz"),
        "npz bomb": (read_npz, folder / "c.npz"),
        "npz that lies twice": (read_npz, folder / "d.npz"),
        "npz packed otherwise": (read_npz, folder / "e.npz"),
        "npz header too long": (read_npz, folder / "f.npz"),
        "tensors' header of 10 GB": (load_weights, folder / "a.safetensors"),
        "tensors' header of 10 GB, sparse": (load_weights, folder / "b.safetensors"),
        "tensor beyond the file": (load_weights, folder / "c.safetensors"),
        "tensor that overflows": (load_weights, folder / "d.safetensors"),
        "laughs": (load_yaml, at("a.yaml", laughs())),
        "yaml of 10 GB": (load_yaml, folder / "b.yaml"),
        "yaml nested": (load_yaml, at("c.yaml", "a: " + "[" * 100_000)),
        "card of 10 GB": (read_card, folder / "a.json"),
        "card nested": (read_card, at("b.json", "[" * 100_000)),
        "mapping of 10 GB": (read_mapping, folder / "c.json"),
        "mapping nested": (read_mapping, at("d.json", '{"a":' * 100_000)),
        "table nested": (read_table, at("e.json", "[" * 100_000)),
        "parquet of none": (read_table, at("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1")),
    }
    npz(folder / "a.npz", npy("(100000, 100000)"))
    npz(folder / "b.npz", npy(f"({2**40}, {2**40})"))
    npz_of_zeros(folder / "c.npz", 300 * 2**20)
    npz_that_lies(folder / "d.npz")
    npz(folder / "e.npz", npy("(64,)"), zipfile.ZIP_LZMA)
    npz(folder / "f.npz", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 100)
    tensors(folder / "a.safetensors", b"{}", 10 * 10**9)
    tensors(folder / "b.safetensors", b"{}", 10 * 10**9, 11 * 10**9)
    tensors(folder / "c.safetensors", one_tensor([2_500_000_000], 10**10))
    tensors(folder / "d.safetensors", one_tensor([2**62, 2**62], 8))
    for name in ("b.yaml", "a.json", "c.json"):
        sparse(folder / name, 10 * 10**9)
    return cases


def main(folder: Path) -> None:
    cases = make(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))
    said = {}
    for name, (read, path) in cases.items():
        try:
            if read is read_picture:
                is_picture(path)
            read(path, "npz:it") if read is read_npz else read(path)
            said[name] = ["read", ""]
        except FedMergeError as error:
            said[name] = ["refused", str(error)]
        except BaseException as error:
            said[name] = ["raised", f"{type(error).__name__}: {error}"]
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
