"""The privacy of a run in words, as the report and the command say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fedmerge.experiment.config import Experiment
from fedmerge.federation.privacy.accounting import NOT_COVERED, SIMULATED, Options, epsilon


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
    what = "for any two data sets" if privacy.kind == "local" else "against having given nothing"
    return (
        f"a hospital has spent at most epsilon = {epsilon(privacy, most):.3g} at delta = {privacy.delta:g}, "
        f"{what}, in {most} releases{together}. {NOT_COVERED}; nor other runs on the same images"
    )
