"""Epsilon: what each hospital has spent, counted from the server's own releases, and what it does not cover.

Releases are counted: noised models that left the server (with local noise: rounds in which hospitals replied
under noise). A release counts for every hospital that was asked in its round, whether its update came, was
refused, or counted as nothing: no reply of a hospital changes the count, and a hospital that fails because of
its images is covered, too. A round that is repeated because its release was lost counts twice.

Each release is a Gaussian mechanism; neighbours differ in one hospital's update, present or absent (central,
adaptive) or replaced by any other (local). Participation is on record, so drawing hospitals for a round gives
no amplification. ``NOT_COVERED`` stands beside every reported epsilon. Other runs are not counted: those on
the same images add up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.extras import extra
from fedmerge.federation.plan.privacy import AdaptivePrivacy, CentralPrivacy, LocalPrivacy
from fedmerge.storage.chained_log import ChainedLog

Options = CentralPrivacy | AdaptivePrivacy | LocalPrivacy

NOT_COVERED = (
    "Epsilon is about the models of the rounds alone. It does not cover the numbers that hospitals "
    "report (images, class counts, losses, scores, seconds, failures), sums over images for a fusion, nor a "
    "choice made by validation scores"
)
SIMULATED = (
    "the noise was simulated: it comes from the run's seed, and whoever knows the seed can take it off, so "
    "no epsilon is told"
)


def epsilon(options: Options, releases: int) -> float:
    """Return epsilon at ``options.delta`` of so many releases; 0 for none. See ``epsilon_of``."""
    return epsilon_of([options.multiplier] * releases, options.delta)


def epsilon_of(multipliers: Iterable[float], delta: float) -> float:
    """Return epsilon at ``delta`` of a sequence of Gaussian mechanisms with these noise multipliers.

    Those of noise z_i compose to one of noise ``(sum z_i^-2)^(-1/2)``, whose privacy loss dp-accounting
    computes exactly (Balle and Wang, arXiv 1805.06530). Raises FedMergeError if dp-accounting is missing, for
    noise that is not above 0, and a delta that is not within (0, 1).
    """
    noise = [float(each) for each in multipliers]
    if not all(each > 1e-100 for each in noise) or not 0 < delta < 1:
        raise FedMergeError(
            f"no epsilon is told of noise {noise[:3]} at delta {delta}: both must be above 0."
        )
    spent = math.fsum(each**-2 for each in noise)
    if not spent:
        return 0.0
    with extra("privacy", "federation.privacy"):
        from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
    loss = GaussianPrivacyLoss(spent**-0.5)

    def excess(epsilon: float) -> float:
        return float(loss.get_delta_for_epsilon(epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    from scipy.optimize import brentq  # slow to import

    return float(brentq(excess, 0.0, high, xtol=1e-9))


class Spending:
    """The releases of a run and the hospitals asked for each; epsilon is computed from these alone.

    In memory, or, after ``keep_in``, in an append-only log (``ChainedLog``) that outlives the process.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._log: ChainedLog | None = None
        self._entries: list[dict[str, Any]] = []

    def keep_in(self, folder: Path, rounds: int) -> None:
        """Continue the log in ``folder``, which must hold each of the first ``rounds`` rounds.

        Raises FedMergeError if one is missing: then nobody knows what was spent.
        """
        if self.options.simulate:
            return
        self._log = ChainedLog(folder / "releases.jsonl")
        self._entries = self._log.entries()
        lacking = set(range(1, rounds + 1)) - {entry["round"] for entry in self._entries}
        if lacking:
            raise FedMergeError(
                f"'{self._log.path}' lacks the release of round {min(lacking)}, so what hospitals have spent "
                "is not known: bring the file back, or begin a new run."
            )

    def released(self, round: int, sites: Iterable[str], model: str) -> None:
        """Record a release durably before it leaves; a release that is recorded already is not counted again.

        model: its hash. Releases with simulated noise are not recorded.
        """
        if self.options.simulate:
            return
        entry = {"round": round, "model": model, "sites": sorted(sites)}
        if any(entry.items() <= known.items() for known in self._entries):
            return
        if self._log is not None:
            self._log.append(entry | {"kind": self.options.kind, "noise": self.options.noise})
        self._entries.append(entry)

    def releases(self) -> Counter[str]:
        """Return the number of releases for which each hospital was asked."""
        return Counter(site for entry in self._entries for site in entry["sites"])

    def rows(self, sites: Iterable[str]) -> list[dict[str, Any]]:
        """Return what each hospital has spent after a further release of ``sites``.

        One row per hospital: site, releases, epsilon, delta. None of them if the noise is simulated.
        """
        if self.options.simulate:
            return []
        counts = self.releases() + Counter(sites)
        known = {count: epsilon(self.options, count) for count in set(counts.values())}
        return [
            {
                "site": site,
                "releases": counts[site],
                "epsilon": known[counts[site]],
                "delta": self.options.delta,
            }
            for site in sorted(counts)
        ]
