"""Join the calibration bins of many runs into one reliability curve per level."""

from __future__ import annotations

import pandas as pd


def joined(frame: pd.DataFrame, compare: str) -> pd.DataFrame:
    """Join bins over seeds, sites and streams, every image with the same weight.

    frame: columns ``compare``, bin, low, high, n, confidence, accuracy; an empty bin has n 0 and NaN. Returns
    the same columns, one row per level and bin, levels in order of appearance.
    """
    keys = [compare, "bin"]
    sums = frame.assign(confidence=frame["confidence"] * frame["n"], accuracy=frame["accuracy"] * frame["n"])
    groups = sums.groupby(keys, sort=False)
    whole = groups[["n", "confidence", "accuracy"]].sum()
    whole[["confidence", "accuracy"]] = whole[["confidence", "accuracy"]].div(
        whole["n"].where(whole["n"] > 0), axis=0
    )
    return pd.concat([groups[["low", "high"]].first(), whole], axis=1).reset_index()


def with_leaderboard(frame: pd.DataFrame, board: pd.DataFrame, column: str) -> pd.DataFrame:
    """Add a leaderboard's ``constant`` and ``worth`` to a frame, for the levels in ``column``."""
    standing = board.drop_duplicates("level").set_index("level")
    return frame.assign(**{name: frame[column].map(standing[name]) for name in ("constant", "worth")})
