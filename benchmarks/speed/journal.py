"""What keeping every round costs: the time of the journal's writes, beside that of the rounds they end.

Each write puts the global weights on the disk, waits until they are there, and hashes them. Small CNN: 10
hospitals; ResNet-18 (45 MB): 4. One epoch of the embedded digits a round. Run `python -m
benchmarks.speed.journal`; --folder says on which disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.federation import FederationPlan, server_app, simulate
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import ModelSpec, Normalisation
from fedmerge.training import TrainingOptions

HOSPITALS = {"small-cnn": 10, "resnet18": 4}


def plan_of(network: str, rounds: int) -> FederationPlan:
    return FederationPlan(
        model=ModelSpec(name=network, in_channels=1, n_classes=10, image_size=16),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=rounds,
        local=TrainingOptions(lr=0.05, batch_size=16),
        fine_tune=None,
    )


def cohort_of(hospitals: int) -> Cohort:
    sites = tuple(SiteSpec(name=f"hospital-{i}") for i in range(hospitals))
    return build_cohort(CohortSpec(name="digits", source="digits", size=16, sites=sites), seed=0)


class Timed(RoundJournal):
    """A journal that notes how long each write takes, and when it ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seconds: list[float] = []
        self.ended = [time.perf_counter()]

    def write(self, *given: Any) -> None:
        """See ``RoundJournal``."""
        began = time.perf_counter()
        super().write(*given)
        self.ended.append(time.perf_counter())
        self.seconds.append(self.ended[-1] - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for network, hospitals in HOSPITALS.items():
        plan, cohort = plan_of(network, given.rounds), cohort_of(hospitals)
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            journal = Timed(Path(place))
            simulate(server_app(plan, lambda s, j=journal: s.rounds(s.start(), j)), cohort.training)
        rounds = [after - before for before, after in pairwise(journal.ended)]
        shares = sorted(write / (whole - write) for write, whole in zip(journal.seconds, rounds, strict=True))
        low, middle, high = shares[0], statistics.median(shares), shares[-1]
        print(
            f"{network}, {hospitals} hospitals: a round {statistics.median(rounds):.2f} s, of which the "
            f"journal {1000 * statistics.median(journal.seconds):.0f} ms: {1 + middle:.3f} x "
            f"({1 + low:.3f} to {1 + high:.3f}, {given.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
