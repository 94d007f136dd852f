"""Processes that end in the middle of their work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Died(BaseException):
    """A process that ends here."""


@contextmanager
def dying_at(owner: Any, name: str) -> Iterator[None]:
    """In the block a process ends where it calls a function, of a module or a mapping, by this name."""

    def die(*args: Any) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        (patch.setitem if isinstance(owner, dict) else patch.setattr)(owner, name, die)
        with pytest.raises(Died):
            yield
