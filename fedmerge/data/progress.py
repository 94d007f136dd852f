"""Progress of reading images, and files that are refused, told to whoever builds a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, float, float], None]
_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)
_told: ContextVar[Progress | None] = ContextVar("told", default=None)


@contextmanager
def telling(progress: Progress | None) -> Iterator[None]:
    """Inside the block, ``progress(what, done, total)`` is called while images are read."""
    token = _told.set(progress)
    try:
        yield
    finally:
        _told.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """Report that ``done`` of ``total`` images are read."""
    if (progress := _told.get()) is not None:
        progress(what, done, total)


@contextmanager
def noting_refused() -> Iterator[list[str]]:
    """Yield a list of sentences, one for each file that is refused while images are read in the block."""
    noted: list[str] = []
    token = _refused.set(noted)
    try:
        yield noted
    finally:
        _refused.reset(token)


def note_refused(sentences: list[str]) -> None:
    """Note why files are refused, for ``noting_refused``."""
    if (noted := _refused.get()) is not None:
        noted += sentences
