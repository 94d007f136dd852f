"""The privacy of a run in words, as the report and the command say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from fedmerge.experiment.configuration.config import Experiment
from fedmerge.federation.plan.privacy import Privacy
from fedmerge.federation.privacy.accounting import NOT_COVERED, SIMULATED, Options, epsilon, epsilon_of

ANY_TWO, AGAINST_NOTHING = "for any two data sets", "against having given nothing"
"""What local noise, and central noise, make hard to tell apart."""


def mechanism(privacy: Options) -> str:
    """Say what is clipped and where the noise is added, without epsilon."""
    if privacy.kind == "local":
        return (
            f"each hospital clips its update to {privacy.clip:g} and adds noise of {privacy.noise:g} times "
            "that before it leaves"
        )
    adaptive = privacy.kind == "adaptive"
    clip = (
        f"a clip that begins at {privacy.clip:g} and follows the quantile {privacy.quantile:g} of their norms"
        if privacy.kind == "adaptive"
        else f"{privacy.clip:g}"
    )
    return (
        f"updates are clipped to {clip}; the noise on their sum{' and their count' if adaptive else ''} has "
        f"{privacy.noise:g} times what one hospital can change"
    )


def privacy_in_words(experiment: Experiment, history: Iterable[Mapping[str, Any]]) -> str:
    """Say how much epsilon the hospitals have spent by a history's rows, and what that does not cover.

    Each seed trains a federation anew, on the same images, and so does each one of a leave-one-out
    evaluation: their releases are counted together. Empty without privacy.
    """
    privacy = experiment.federation.privacy
    if privacy is None or not experiment.training.rounds:
        return ""
    if privacy.simulate:
        return SIMULATED
    last: dict[tuple[Any, Any, Any], int] = {}
    for row in history:
        if row.get("phase") == "aggregate" and "releases" in row:
            last[row["seed"], row["federation"], row["site"]] = int(row["releases"])
    releases: Counter[str] = Counter()
    for (_, _, site), count in last.items():
        releases[site] += count
    most = max(releases.values(), default=0)
    federations = len({where[:2] for where in last})
    together = (
        f" of {federations} federations (seeds, hospitals left out) of this run" if federations > 1 else ""
    )
    what = ANY_TWO if privacy.kind == "local" else AGAINST_NOTHING
    return _spent(epsilon(privacy, most), privacy.delta, what, f"{most} releases{together}")


def study_privacy_in_words(trained: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> str:
    """Say how much epsilon the hospitals of a study have spent in all of its federations together.

    trained: the privacy options and the history of each federation. Every variant and seed trains one on the
    same images, so the releases of a hospital compose, whatever their noise. Local noise protects another
    thing than central noise, so each has a sentence.
    """
    told = [(TypeAdapter[Options](Privacy).validate_python(given), rows) for given, rows in trained]
    sentences = [SIMULATED] if any(privacy.simulate for privacy, _ in told) else []
    real = [(privacy, rows) for privacy, rows in told if not privacy.simulate]
    for local, what in ((False, AGAINST_NOTHING), (True, ANY_TWO)):
        group = [(privacy, rows) for privacy, rows in real if (privacy.kind == "local") == local]
        if not group:
            continue
        noise: dict[str, list[float]] = {}
        for privacy, rows in group:
            for site, count in _releases(rows).items():
                noise.setdefault(site, []).extend([privacy.multiplier] * count)
        delta = min(privacy.delta for privacy, _ in group)
        spent = {site: epsilon_of(multipliers, delta) for site, multipliers in noise.items()}
        most = max(spent, key=lambda site: spent[site], default="")
        over = f"{len(noise.get(most, ()))} releases of {len(group)} federations of this study"
        each = max(
            (epsilon(privacy, max(_releases(rows).values(), default=0)) for privacy, rows in group),
            default=0.0,
        )
        sentences.append(
            _spent(spent.get(most, 0.0), delta, what, f"{over} together (in one of them at most {each:.3g})")
        )
    return ". ".join(sentences)


def _releases(history: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of releases by hospital, by the last rows of one federation's history."""
    rows = [row for row in history if row.get("phase") == "aggregate" and "releases" in row]
    return {row["site"]: int(row["releases"]) for row in rows}


def _spent(spent: float, delta: float, what: str, over: str) -> str:
    return (
        f"a hospital has spent at most epsilon = {spent:.3g} at delta = {delta:g}, {what}, in {over}. "
        f"{NOT_COVERED}; nor other runs on the same images"
    )
