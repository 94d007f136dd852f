"""Clean text from outside for a table, a report and a terminal."""

from __future__ import annotations

import unicodedata

LONGEST = 1000
"""The most letters of a reason."""


def clean(text: str, longest: int = LONGEST) -> str:
    """Return text as one line of at most ``longest`` letters, with its end, and without control characters.

    Control and format characters, surrogates, private and unassigned characters (Unicode's categories C…) and
    line ends become spaces; a run of spaces becomes one.
    """
    if len(text) > 8 * longest:  # before every letter is checked
        text = text[: 4 * longest] + text[-4 * longest :]
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    words = " ".join(plain.split())
    if len(words) <= longest:
        return words
    end = longest // 4
    return f"{words[: longest - end - 1]}…{words[-end:]}"
