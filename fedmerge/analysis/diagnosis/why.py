"""Why averaging these models works or does not, in one sentence that numbers decide."""

from __future__ import annotations

import math

import pandas as pd

from fedmerge.analysis.diagnosis import barriers, drift
from fedmerge.analysis.diagnosis.words import NOTHING, degrees, guessing, points, share

LOW, HIGH = 0.02, 0.1
"""Accuracy that a path may lose: below the first averaging is safe, from the second on it cannot work."""


def why(pairs: pd.DataFrame, parts: pd.DataFrame, paths: pd.DataFrame | None = None) -> str:
    """Return the sentence from the tables ``pairs`` and ``parts`` of drift, and ``barriers`` if there is one.

    The accuracy lost on the worst path between two models decides; without one, the share of its length that
    the head keeps in the mean.
    """
    far, kept = drift.worst(pairs), parts.set_index("part")["retained"]
    if paths is None or paths.empty:
        text = f"The heads of {far['first']} and {far['second']} are {degrees(far['angle'])} apart"
        text += f" and the mean keeps {share(kept['head'])} of their length"
        weak = math.isnan(kept["head"]) or kept["head"] < 0.9
        return f"{text}: {'averaging weakens the head' if weak else 'averaging keeps the head'}."
    lost = barriers.worst(paths)
    heads = pairs[
        (pairs["part"] == "head") & (pairs["first"] == lost["first"]) & (pairs["second"] == lost["second"])
    ]
    angle = float(heads["angle"].iloc[0]) if len(heads) else math.nan
    text = (
        f"The heads of {lost['first']} and {lost['second']} are {degrees(angle)} apart, the path between "
        f"them loses {points(lost['lost'])}: "
    )
    if guessing(lost["ends"], lost["commonest"]):
        return f"{text}but {NOTHING}."
    if lost["lost"] < LOW:
        return f"{text}averaging can work here."
    if lost["lost"] < HIGH:
        return f"{text}averaging costs a little; an ensemble or matched neurons (kf) may win it back."
    return f"{text}averaging cannot work; kf or an ensemble can."
