"""Check an error by its facts: names, numbers, the field at fault, the remedy; not by its wording."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedmerge.errors import FedMergeError


@contextmanager
def refused(
    *facts: object, kind: type[Exception] = FedMergeError, without: tuple[object, ...] = ()
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Check that the block raises ``kind`` with a sentence that has every fact, and none of ``without``.

    A fact is a name, a number or a few words. It begins and ends where a word does: 3 is not in 13, nor 1.3.
    """
    assert facts, "name the facts of the sentence"
    with pytest.raises(kind) as info:
        yield info
    sentence = str(info.value)
    missing = [fact for fact in facts if not has(sentence, fact)]
    assert not missing, f"{missing} not in: {sentence}"
    unwanted = [fact for fact in without if has(sentence, fact)]
    assert not unwanted, f"{unwanted} in: {sentence}"


def has(sentence: str, fact: object) -> bool:
    """Whether a sentence has a fact, as whole words and numbers."""
    text = str(fact)
    before = r"(?<!\w)(?<!\d\.)" if re.match(r"\w", text) else ""
    after = r"(?!\w)(?!\.\d)" if re.search(r"\w$", text) else ""
    return re.search(before + re.escape(text) + after, sentence) is not None
