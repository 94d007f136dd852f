"""Facts about a source's files, beside their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FileFacts:
    """What a source's files are like. sizes: images by width and height as stored. left_out: files that may
    be images and are not read, by kind."""

    sizes: Mapping[tuple[int, int], int]
    left_out: Mapping[str, int]
