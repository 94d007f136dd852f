"""How the cost of a round grows with the number of hospitals: 10, 50, 200, 1,000, with a tiny model.

Each hospital trains the small CNN (4 channels wide) for one epoch on 24 images of 8 px; the server aggregates
the mean and has it validated. Seconds of a round, here and on Ray's workers: the least of some rounds,
because whatever else the machine does only adds. A straight line a + b n is fitted by least squares of
relative error (each point weighs as much as another), and its largest relative residual is given. Run
`python -m benchmarks.speed.federation_scaling --out benchmarks/results/federation-scaling.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.processes import told
from fedmerge.data import Arrays, Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.federation import FederationPlan, Server, open_backend, server_app
from fedmerge.models import ModelSpec, Normalisation
from fedmerge.training import TrainingOptions

SIDES = ("local", "ray")


def plan_of() -> FederationPlan:
    options = TrainingOptions(lr=0.01, batch_size=24, schedule="constant")
    return FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 4}),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=100,
        local=options,
        fine_tune=options,
    )


def cohort_of(hospitals: int) -> Cohort:
    rng = np.random.default_rng(0)
    sites = tuple(
        SiteSpec(
            name=f"hospital-{i:04d}",
            source=Arrays(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2),
        )
        for i in range(hospitals)
    )
    return build_cohort(CohortSpec(name="many", sites=sites), seed=0)


def rounds(side: str, hospitals: int, workers: int, number: int) -> float:
    """Return the seconds of the quickest round."""
    times: list[float] = []

    def programme(server: Server) -> None:
        state = server.start()
        for i in range(1, number + 2):
            began = time.perf_counter()
            state = server.strategy.round(server.grid, i, state)
            times.append(time.perf_counter() - began)

    with open_backend("local" if side == "local" else {"kind": "ray", "workers": workers}) as (place, _):
        place.simulate(server_app(plan_of(), programme), cohort_of(hospitals).training)
    return min(times[1:])


def line(sizes: list[int], seconds: list[float]) -> dict[str, float]:
    """Fit a + b n with the least sum of squared relative errors; return it with the largest of them."""
    n, s = np.array(sizes, float), np.array(seconds)
    design = np.stack([1 / s, n / s], axis=1)
    (a, b), *_ = np.linalg.lstsq(design, np.ones(len(s)), rcond=None)
    residual = float(np.abs((a + b * n) / s - 1).max())
    return {"a_seconds": round(a, 4), "b_ms_a_hospital": round(b * 1000, 3), "residual": round(residual, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, nargs="+", default=[10, 50, 200, 1000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help="one side in this process; JSON in the last line")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side is not None:
        print(json.dumps(rounds(args.side, args.hospitals[0], args.workers, args.rounds)))
        return
    result: dict[str, Any] = {"hospitals": args.hospitals, "workers": args.workers}
    for side in SIDES:
        seconds = []
        for hospitals in args.hospitals:
            size = ("--hospitals", hospitals, "--workers", args.workers, "--rounds", args.rounds)
            seconds.append(round(told(__spec__.name, "--side", side, *size), 4))
            print(side, hospitals, seconds[-1], flush=True)
        result[side] = {"seconds": seconds} | line(args.hospitals, seconds)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
