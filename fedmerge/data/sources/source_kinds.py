"""The registry of data sources: what a source kind is asked for, and what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedmerge.data.reading import Reading
from fedmerge.registry import Catalogue

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class SourceRequest:
    """A source as a cohort asks for it.

    text: the source as written (``npz:scans.npz``). rest: what stands behind the kind (``scans.npz``).
    folder: where relative paths may also start, the folder of the cohort's file. size, channels: of the
    cohort's images, where it says them; images may have others, and are resized afterwards. allow: whether
    images that cannot be used may be left out. how: the hospital's options of pixels and columns.
    """

    text: str
    rest: str = ""
    folder: Path | None = None
    size: int | None = None
    channels: int | None = None
    allow: bool = False
    how: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Source:
    """A registered kind of source. form: ``npz:PATH``. call: loads it. key: see ``Sources.source``.

    files: what it reads beside the file or folder that is its key.
    """

    name: str
    form: str
    call: Callable[[SourceRequest], Any]
    key: Callable[[SourceRequest], Hashable] | None = None
    files: Callable[[SourceRequest], list[Path]] | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.call) or "").split("\n", 1)[0]

    @property
    def takes_rest(self) -> bool:
        """Whether something must stand behind the kind's name."""
        return ":" in self.form


class Sources(Catalogue[Source]):
    """All kinds of data sources, by the word before the colon."""

    def source(
        self,
        name: str,
        *,
        form: str,
        key: Callable[[SourceRequest], Hashable] | None = None,
        files: Callable[[SourceRequest], list[Path]] | None = None,
    ) -> Callable[[F], F]:
        """Decorate a function ``(request) -> RawSource or Arrays`` to register a kind of source.

        form: how a cohort writes it: the name alone, or ``NAME:WHAT``. key: returns a value that is equal for
        requests of the same images, however they are written; by default the text, so that sites with the
        same text divide the images. files: returns the files that decide its images, beside a key that is a
        path.
        """

        def register(call: F) -> F:
            self.add(Source(name, form, call, key, files))
            return call

        return register


SOURCES = Sources("source", "fedmerge.sources")
