"""Whether these models can be averaged: the one verdict of an analysis, and the numbers that decide it.

Sentences of single analyses say what was measured, each on images and points of its own. What follows for
averaging is said here alone, so that two sentences of one analysis cannot contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from fedmerge.analysis.diagnosis import barriers, drift, features, heads
from fedmerge.analysis.diagnosis.contract import Finding
from fedmerge.analysis.diagnosis.words import degrees, guessing, points, share

LOW, HIGH = 0.02, 0.1
"""Accuracy that the mean may lose against the models: below the first it works, from the second it fails."""
FEW = 100
"""Images under which one counts more than a point."""
NOTHING = "the models are no better than the commonest class here, which says nothing about averaging"
WORKS, MORE = "averaging works here", "averaging loses nothing, but more can be had"
COSTS, FAILS = "averaging costs some accuracy", "averaging fails as it is"
VERDICTS = (NOTHING, WORKS, MORE, COSTS, FAILS)


@dataclass(frozen=True)
class Evidence:
    """What was measured of the mean itself: accuracies of the models (their mean) and of the mean of weights.

    best: the highest accuracy that was seen; commonest: that of the commonest class; images: how many
    measured. gains: what other ways of merging have over the mean, each on the images of its own analysis.
    """

    models: float
    mean: float
    best: float
    commonest: float
    images: float
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> float:
        """Accuracy that averaging loses; what is equal but for rounding is equal."""
        return round(self.models - self.mean, 9)

    @property
    def better(self) -> dict[str, float]:
        """The gains that are told from nothing, the largest first."""
        found = {name: gain for name, gain in self.gains.items() if gain > LOW}
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    @property
    def verdict(self) -> str:
        """What the numbers mean for averaging, in a clause."""
        if guessing(self.best, self.commonest, self.images):
            return NOTHING
        if self.lost >= LOW:
            return COSTS if self.lost < HIGH else FAILS
        return MORE if self.better else WORKS


def why(findings: Mapping[str, Finding]) -> str:
    """Return whether the models can be averaged, and what stands between them; "" where nothing says so.

    The accuracy that the mean of all models loses against the models themselves decides: as ``features``
    measured it, else ``barriers``, else ``heads``. Where no image was looked at, the share of its length that
    the head keeps in the mean says what averaging does to it.
    """
    evidence = evidence_of(findings)
    if evidence is None:
        return _unseen(findings["drift"]) if "drift" in findings else ""
    text = f"The models have {share(evidence.models)} accuracy, their mean {share(evidence.mean)}: "
    text += evidence.verdict
    if evidence.verdict != NOTHING:
        text += _others(evidence)
    return " ".join(filter(None, [f"{text}.", _between(findings, evidence), _few(evidence.images)]))


def evidence_of(findings: Mapping[str, Finding]) -> Evidence | None:
    """Return what the first analysis that measured the mean says, with the gains that any measured.

    Tables of an earlier version, which lack a column, say nothing.
    """
    for name, read in (("features", features.levels), ("barriers", barriers.levels), ("heads", heads.levels)):
        if name in findings and "images" in findings[name].frame:
            return Evidence(*read(findings[name].frame), dict(_gains(findings)))
    return None


def _gains(findings: Mapping[str, Finding]) -> Iterator[tuple[str, float]]:
    """Yield other ways of merging, with their accuracy over that of the mean in the same analysis."""
    if "features" in findings:
        yield "the ensemble of logits", findings["features"].number
    if "neurons" in findings:
        found = findings["neurons"].tables["methods"].set_index("method")
        known = found["accuracy"].dropna() if "accuracy" in found else pd.Series(dtype=float)
        others = known.drop("mean", errors="ignore")
        if "mean" in known and len(others):
            yield f"neurons matched by {others.idxmax()}", float(others.max() - known["mean"])
    if "barriers" in findings:
        frame = findings["barriers"].frame
        if "images" in frame and (frame["norms"] == barriers.ANEW).any():
            anew, kept = (barriers.levels(frame, norms)[1] for norms in (barriers.ANEW, barriers.KEPT))
            yield "batch norms measured anew", anew - kept


def _others(evidence: Evidence) -> str:
    """What is more accurate than the mean, the best first."""
    if evidence.better:
        said = ", ".join(f"{name} +{points(gain)}" for name, gain in evidence.better.items())
        return f"; over the mean: {said}"
    if evidence.gains:
        return f", and nothing that was measured is more than {points(LOW)} better"
    return "" if evidence.lost < LOW else "; an ensemble or matched neurons (kf) may lose less"


def _between(findings: Mapping[str, Finding], evidence: Evidence) -> str:
    """What stands between the two models of the worst path, or the two heads that are furthest apart."""
    pairs = findings["drift"].tables["pairs"] if "drift" in findings else None
    if "barriers" not in findings:
        far = None if pairs is None else drift.worst(pairs)
        return "" if far is None else f"{_apart(far['first'], far['second'], far['angle'])}."
    path = barriers.worst(findings["barriers"].frame)
    first, second, lost = path["first"], path["second"], path["lost"]
    if pairs is None:
        return f"The path between {first} and {second} loses {points(lost)}."
    between = pairs[(pairs["part"] == "head") & (pairs["first"] == first) & (pairs["second"] == second)]
    angle = float(between["angle"].iloc[0]) if len(between) else math.nan
    against = evidence.verdict != NOTHING and (evidence.lost < LOW) != (lost < LOW)
    word = "although" if against else "and"
    return f"{_apart(first, second, angle)}, {word} the path between them loses {points(lost)}."


def _few(images: float) -> str:
    """What one image counts, where that is near to what decides."""
    if images >= FEW:
        return ""
    few = f"{images:.0f} image{'' if images == 1 else 's'}"
    return f"Only {few} measured this: each counts {points(1 / images)}."


def _apart(first: str, second: str, angle: float) -> str:
    return f"The heads of {first} and {second} are {degrees(angle)} apart"


def _unseen(finding: Finding) -> str:
    """The verdict without images: from the head's length alone."""
    far = drift.worst(finding.tables["pairs"])
    kept = float(finding.tables["parts"].set_index("part")["retained"]["head"])
    weak = "weakens" if math.isnan(kept) or kept < 0.9 else "keeps"
    return (
        f"{_apart(far['first'], far['second'], far['angle'])}, and the mean keeps {share(kept)} of their "
        f"length: averaging {weak} the head; what it does to answers, labelled images would say."
    )
