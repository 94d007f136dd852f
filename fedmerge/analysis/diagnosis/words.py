"""Numbers in the sentences of analyses."""

from __future__ import annotations

import math


def degrees(angle: float) -> str:
    """An angle: ``84 degrees``; below ten with a decimal."""
    return "an unknown angle" if math.isnan(angle) else f"{angle:.{0 if angle >= 9.95 else 1}f} degrees"


def share(value: float) -> str:
    """A share of one in per cent: ``58 %`` (no-break space)."""
    return "–" if math.isnan(value) else f"{100 * value:.0f}\u00a0%"


def points(difference: float) -> str:
    """A difference of shares in points: ``31 points``, ``1 point``, ``0.4 points``."""
    value = round(100 * difference, 1) + 0.0  # no minus zero
    text = f"{value:.{0 if abs(value) >= 9.95 else 1}f}".replace("-", "−").removesuffix(".0")
    return f"{text} {'point' if text == '1' else 'points'}"


def chance(accuracy: float, commonest: float, images: float) -> str:
    """The commonest class's accuracy as an aside where an accuracy is no better, else nothing."""
    if not guessing(accuracy, commonest, images):
        return ""
    return f" (the commonest class alone has {share(commonest)})"


def guessing(accuracy: float, commonest: float, images: float) -> bool:
    """Whether an accuracy on so many images is no better than the commonest class, so that it cannot be lost.

    By 2 points, and by what chance gives: 1.64 standard errors of the commonest class's share.
    """
    return accuracy <= commonest + max(0.02, 1.64 * math.sqrt(commonest * (1 - commonest) / images))
