"""Files that are odd in one way each: what writes one, and the pixels or the sentence that it must give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmerge.data.files.one import Item, read_image
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError
from tests.facts import has

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
DEEP = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)
"""12 bits: of window 2000.5/2001, (x - 2000) / 2000 + 0.5 of 255, cut."""
AS_WINDOW = [[0, 0, 128], [255, 255, 255]]
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [0, 0, 0], [255, 255, 255]]], np.uint8
)
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
WINDOW: dict[str, Any] = {"WindowCenter": 2000.5, "WindowWidth": 2001}
Write = Callable[[Path], Any]


class OddFiles:
    """Odd files by name, in ``cases``: what writes one, options of ``read``, pixels or a tuple of facts."""

    def __init__(self) -> None:
        self.cases: dict[str, tuple[Write, dict[str, Any], Any]] = {}

    def __call__(self, name: str, expected: Any, **read: Any) -> Callable[[Write], Write]:
        def keep(write: Write) -> Write:
            self.cases[name] = write, read, expected
            return write

        return keep

    def check(self, case: str, path: Path) -> None:
        write, read, expected = self.cases[case]
        write(path)
        look(path, read, expected)


def in_colours(grey: Any) -> np.ndarray:
    """A grey picture, H x W, as one of colours, H x W x 3."""
    return np.stack([grey] * 3, axis=-1)


def of(write: Callable[..., Any], *given: Any, **tags: Any) -> Write:
    return lambda path: write(path, *given, **tags)


def look(path: Path, read: dict[str, Any], expected: Any) -> None:
    """The pixels, H x W or H x W x 3; or a sentence with these facts, of fewer than 600 letters."""
    if isinstance(expected, tuple):
        with pytest.raises(FedMergeError) as error:
            read_image(Item(path), ReadOptions(**read))
        sentence = str(error.value)
        assert sentence.startswith(str(path))
        assert [fact for fact in expected if not has(sentence, fact)] == [], sentence
        assert len(sentence) < 600
        return
    found = read_image(Item(path), ReadOptions(**read)).pixels[0].numpy()
    wanted = np.asarray(expected)
    wanted = wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    assert found.dtype == np.uint8
    assert found.tolist() == wanted.tolist()
