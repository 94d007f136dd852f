"""Read the body of a call into memory: of limited length, in limited time; never onto the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from python_multipart.exceptions import ParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from fedmerge.serving.limits import MIB, Limits
from fedmerge.serving.refusal import Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


async def read_body(headers: Mapping[str, str], pieces: AsyncIterator[bytes], limits: Limits) -> bytes:
    """Return a body as bytes. Raises Refusal for one that is empty, too long, packed, or too slow."""
    if "content-encoding" in headers:
        raise Refusal(415, "the body has a content-encoding: send the images as they are.")
    told = headers.get("content-length")
    if told is not None and not told.isdecimal():
        raise Refusal(400, "the content-length is no number of bytes.")
    if told is not None and int(told) > limits.body_bytes:
        raise _too_long(limits)
    body, begun = bytearray(), time.monotonic()
    async with aclosing(pieces):  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout(begun + limits.patience(len(body)) - time.monotonic()):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise Refusal(408, "the body came too slowly: send smaller batches.") from None
            if piece is None:
                break
            body += piece
            if len(body) > limits.body_bytes:
                raise _too_long(limits)
    if not body:
        raise Refusal(400, "the body is empty: send images, as PNG, JPEG or npz.")
    return bytes(body)


def _too_long(limits: Limits) -> Refusal:
    return Refusal(413, f"the body has more than {limits.body_bytes / MIB:g} MiB: send smaller batches.")


def parts_of(content_type: str, body: bytes, limits: Limits) -> list[tuple[str, bytes]]:
    """Return the files in a body, in their order, each with a name.

    A body is one file, or ``multipart/form-data`` with a file a part (curl's ``-F``); what kind of file each
    is, its content says. Raises Refusal for parts that are damaged or cut short, without content, or too
    many.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return [("the body", body)]
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise Refusal(400, "the body says that it is multipart/form-data, but not where its parts begin.")
    found = _Parts(limits.images)
    try:
        parser = MultipartParser(boundary, found.callbacks())
        parser.write(body)
        parser.finalize()
    except ParseError:
        raise Refusal(
            400, "the parts of the body (multipart/form-data) cannot be read: send them anew."
        ) from None
    if not found.ended:
        raise Refusal(400, "the body (multipart/form-data) is cut short: its last boundary is missing.")
    if not found.parts:
        raise Refusal(400, "the body has no part: send images, as curl's -F images=@FILE does.")
    return found.parts


class _Parts:
    """The parts of a multipart body, filled by the parser's callbacks."""

    def __init__(self, most: int) -> None:
        self.most, self.ended = most, False
        self.parts: list[tuple[str, bytes]] = []
        self.content, self.field, self.value, self.about = bytearray(), bytearray(), bytearray(), b""

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks by the parser's names for them."""
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        if len(self.parts) >= self.most:
            raise Refusal(413, f"the body has more than {self.most} parts: send smaller batches.")
        self.content, self.about = bytearray(), b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        if self.field.lower() == b"content-disposition":
            self.about = bytes(self.value)
        self.field, self.value = bytearray(), bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]

    def part_end(self) -> None:
        _, options = parse_options_header(self.about)
        name = options.get(b"filename", options.get(b"name", b"")).decode("utf-8", "replace")
        name = "".join(each for each in name if each.isprintable())[:120] or f"part {len(self.parts) + 1}"
        if not self.content:
            raise Refusal(400, f"'{name}' is empty: send a file with an image in it.")
        self.parts.append((name, bytes(self.content)))

    def end(self) -> None:
        self.ended = True
