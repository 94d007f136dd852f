"""Errors that are sentences: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 120
"""The most letters of a given value that a sentence repeats."""


class FedMergeError(Exception):
    """An error that the user can put right; its message is written for users, and shown without a traceback.

    It takes one sentence, or several for all faults of one input. ``args`` holds them.
    """

    def __str__(self) -> str:
        if len(self.args) < 2:
            return super().__str__()
        return "\n".join([f"{len(self.args)} things are wrong:", *(f"- {each}" for each in self.args)])

    def inside(self, where: str) -> FedMergeError:
        """Return the same error, each sentence beginning with ``where``."""
        return FedMergeError(*(f"{where}: {sentence}" for sentence in self.args))


class Faults:
    """The faults of an input, collected so that one error reports them all."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Collect a FedMergeError that is raised in the block; its subclasses, which end the work, pass."""
        try:
            yield
        except FedMergeError as error:
            if type(error) is not FedMergeError:
                raise
            self.found += map(str, error.args)

    def say(self) -> None:
        """Raise FedMergeError with every fault, each once; do nothing where there is none."""
        if self.found:
            raise FedMergeError(*dict.fromkeys(self.found))


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(given[:LONGEST], list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> FedMergeError:
    """Return an error for a name that is not among the ``allowed`` ones, with the nearest valid name."""
    names = sorted(allowed)
    return FedMergeError(
        f"unknown {kind} '{short(given)}'.{nearest(given, names)} Allowed: {', '.join(names)}."
    )


def short(value: Any) -> str:
    """Return a given value as text, cut in the middle where it is longer than ``LONGEST``."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 4 :]}"
