"""Numbers and lists as people write them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedmerge.analysis.metrics import scale_of


def percent(share: float, decimals: int = 1) -> str:
    """A share of 1 as a percentage: ``87.3 %`` (no-break space); a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.{decimals}f}\u00a0%"


def score_text(metric: str, value: float) -> str:
    """A score in words: a share as a percentage, any other as its column has it."""
    scale = scale_of(metric)
    return percent(value) if scale.format == "percent" else scale.text(value)


def count(number: int, thing: str, things: str | None = None) -> str:
    """A number with its noun: ``1 image``, ``1 234 images``."""
    noun = thing if number == 1 else things or f"{thing}s"
    return f"{thousands(number)} {noun}"


def thousands(number: int) -> str:
    """An integer in groups of three: ``12 345`` (narrow no-break spaces)."""
    return f"{number:,}".replace(",", "\u202f")


def few(names: Sequence[object], word: str = "and", most: int = 6) -> str:
    """Names as a list; of more than ``most`` the first and how many others there are."""
    if len(names) <= most:
        return listing(names, word)
    return f"{', '.join(map(str, names[: most - 1]))} {word} {len(names) - most + 1} others"


def listing(words: Sequence[object], word: str = "and") -> str:
    """Words as a list: ``a, b and c``."""
    texts = [str(text) for text in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}" if texts else "none"
