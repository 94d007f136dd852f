"""How hospitals' images get to worker processes: sent through Ray's object store, or built there again.

A cohort of eight hospitals that divide 60,000 colour images of 28 px in an npz file (141 MB). Sent: the
server packs and stores every hospital's training and validation images once, and each of two workers takes up
its four. Built: each of two workers builds the cohort from its description, as one that is sent only the
description must, because the partition looks at all labels. Both ways take turns; seconds, medians, and the
private memory of a worker afterwards. Run
`python -m benchmarks.speed.federation_images --out benchmarks/results/federation-images.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fedmerge.cluster.attach import ray_initialised
from fedmerge.cluster.config import BackendConfig
from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.federation.grids.ray.backend import OpenHospital

HOSPITALS, WORKERS, IMAGES = 8, 2, 60_000


def spec_of(folder: Path) -> CohortSpec:
    """The cohort, and its file of noise."""
    rng = np.random.default_rng(0)
    parts = {}
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        n = int(IMAGES * share)
        parts[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28, 3), dtype=np.uint8)
        parts[f"{split}_labels"] = rng.integers(0, 10, (n, 1))
    np.savez(folder / "noise.npz", **parts)
    sites = tuple(SiteSpec(name=f"hospital-{i}") for i in range(HOSPITALS))
    return CohortSpec(name="noise", source=f"npz:{folder / 'noise.npz'}", sites=sites)


class Holder:
    """A worker that takes hospitals up, one way or the other."""

    def __init__(self) -> None:
        import fedmerge.federation.hospital.app  # noqa: F401  (what both ways need is not timed)

        self.before = psutil.Process().memory_full_info().uss
        self.held: Any = None

    def take(self, references: list[Any]) -> float:
        """Take hospitals out of the object store; return the MB of private memory that they need."""
        import ray

        self.held = [ray.get(reference)(lambda done, total: None) for reference in references]
        return (psutil.Process().memory_full_info().uss - self.before) / 1e6

    def build(self, spec: CohortSpec) -> float:
        """Build all hospitals from their description."""
        self.held = build_cohort(spec, seed=0)
        return (psutil.Process().memory_full_info().uss - self.before) / 1e6


def once(ray: Any, how: str, spec: CohortSpec, cohort: Cohort) -> tuple[float, float]:
    """Return seconds and MB of private memory a worker of one way, in new workers that have done imports."""
    workers = [ray.remote(Holder).options(num_cpus=1).remote() for _ in range(WORKERS)]
    ray.get([worker.take.remote([]) for worker in workers])
    began = time.perf_counter()
    if how == "sent":
        stored = [ray.put(OpenHospital.of(site, "cpu")) for site in cohort.training]
        jobs = [worker.take.remote(stored[i::WORKERS]) for i, worker in enumerate(workers)]
    else:
        jobs = [worker.build.remote(spec) for worker in workers]
    grown = ray.get(jobs)
    took = time.perf_counter() - began
    for worker in workers:
        ray.kill(worker)
    return took, max(grown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    from benchmarks.speed import federation_images  # by its name: the workers import this file

    with tempfile.TemporaryDirectory() as folder, ray_initialised(BackendConfig(kind="ray", workers=WORKERS)):
        import ray

        spec = spec_of(Path(folder))
        cohort = build_cohort(spec, seed=0)
        told: dict[str, list[tuple[float, float]]] = {"sent": [], "built": []}
        for _ in range(args.turns):
            for how, found in told.items():
                found.append(federation_images.once(ray, how, spec, cohort))
    result = {
        how: {
            "seconds": round(statistics.median(took for took, _ in found), 3),
            "worker_mb": round(statistics.median(grown for _, grown in found)),
        }
        for how, found in told.items()
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
