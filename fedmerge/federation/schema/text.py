"""Words from outside, made fit for a table, a report and a terminal."""

from __future__ import annotations

import unicodedata

LONGEST = 1000
"""Letters of a reason that are kept."""


def clean(text: str, longest: int = LONGEST) -> str:
    """One line of at most so many letters, its end kept too; what steers a terminal or turns text is gone.

    Control and format characters, surrogates, private and unassigned ones (Unicode's categories C…) and line
    ends become spaces, and a run of spaces is one.
    """
    if len(text) > 8 * longest:  # before each letter is looked at
        text = text[: 4 * longest] + text[-4 * longest :]
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    words = " ".join(plain.split())
    if len(words) <= longest:
        return words
    end = longest // 4
    return f"{words[: longest - end - 1]}…{words[-end:]}"
