"""A round of hospitals on Ray's workers against an ideal pool of processes with shared-memory tensors.

Eight hospitals, torchvision's ResNet-18 (45 MB), two workers of one thread. A round is the same on both
sides: training from the shared model, the mean in hospital order, its validation by every hospital. The ideal
pool does nothing else: its workers hold their hospitals, weights lie in shared memory, a word through a pipe
starts a job, and the mean takes each model when it is there. Both pools stand ready in one process and take
turns (A B A B …); they end with the same weights. Run
`python -m benchmarks.speed.federation_rounds --out benchmarks/results/federation-rounds.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from fedmerge.analysis import rates
from fedmerge.data import Arrays, Cohort, CohortSpec, Site, SiteSpec, build_cohort
from fedmerge.federation import FederationPlan, Server, open_backend, server_app
from fedmerge.models import ModelSpec, Normalisation, State, average, build, predict, state_hash
from fedmerge.seeding import Draws
from fedmerge.training import Segment, TrainingOptions, fit

ROUNDS = 1000  # of the plan, so that every measured round is an ordinary one


def plan_of() -> FederationPlan:
    options = TrainingOptions(lr=0.01, batch_size=32, schedule="constant")
    return FederationPlan(
        model=ModelSpec(name="torchvision:resnet18", in_channels=3, n_classes=4, image_size=64),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=ROUNDS,
        local=options,
        fine_tune=options,
    )


def cohort_of(hospitals: int, images: int) -> Cohort:
    """Hospitals with images of noise, 64 px: what they show does not change the time."""
    rng = np.random.default_rng(0)
    sites = tuple(
        SiteSpec(
            name=f"hospital-{i:03d}",
            source=Arrays(rng.integers(0, 256, (images, 64, 64, 3), dtype=np.uint8), np.arange(images) % 4),
        )
        for i in range(hospitals)
    )
    return build_cohort(CohortSpec(name="noise", sites=sites), seed=0)


class IdealPool:
    """Worker processes that hold hospitals; weights in shared memory, words through pipes."""

    def __init__(self, plan: FederationPlan, sites: tuple[Site, ...], workers: int) -> None:
        self.plan, self.sites = plan, sites
        template = build(plan.model, 0).state_dict()
        self.shared = {key: value.clone().share_memory_() for key, value in template.items()}
        self.slots = [{key: value.clone().share_memory_() for key, value in template.items()} for _ in sites]
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for worker in range(workers):
            mine = [(i, sites[i], self.slots[i]) for i in range(worker, len(sites), workers)]
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, plan, mine, self.shared), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def round(self, number: int, state: State) -> State:
        """Train, average in order, validate."""
        self._go("train", number, state)
        weights = [float(len(site.train)) for site in self.sites]
        merged = average(self._trained(), weights, batch_norm=self.plan.batch_norm)
        self._go("evaluate", number, merged)
        for i in range(len(self.sites)):
            self.pipes[i % len(self.pipes)].recv()
        return merged

    def close(self) -> None:
        """End the workers."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(("end", 0))
            process.join()

    def _go(self, what: str, number: int, state: State) -> None:
        for key, value in state.items():
            self.shared[key].copy_(value)
        for pipe in self.pipes:
            pipe.send((what, number))

    def _trained(self) -> Iterator[State]:
        for i in range(len(self.sites)):
            self.pipes[i % len(self.pipes)].recv()
            yield self.slots[i]


def work(pipe: Any, plan: FederationPlan, hospitals: list[tuple[int, Site, State]], shared: State) -> None:
    """A worker of the ideal pool."""
    torch.set_num_threads(1)
    model = build(plan.model, 0)
    while True:
        what, number = pipe.recv()
        if what == "end":
            return
        for i, site, slot in hospitals:
            model.load_state_dict(shared)
            if what == "evaluate":
                logits = predict(model, site.val.images, plan.normalisation)
                pipe.send((i, *rates(logits, site.val.labels)))
                continue
            fit(
                model,
                site.train.images,
                site.train.labels,
                plan.local,
                normalise=plan.normalisation,
                draws=Draws(plan.seed, purpose="round", round=number, site=site.name),
                segment=Segment(((number - 1) / plan.rounds, number / plan.rounds)),
            )
            for key, value in model.state_dict().items():
                slot[key].copy_(value)
            pipe.send(i)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    plan, cohort = plan_of(), cohort_of(args.hospitals, args.images)
    ideal = IdealPool(plan, cohort.training, args.workers)
    times: dict[str, list[float]] = {"ideal": [], "ray": []}

    def programme(server: Server) -> None:
        states = {"ideal": server.start(), "ray": server.start()}
        rounds = {"ideal": ideal.round, "ray": lambda n, s: server.strategy.round(server.grid, n, s)}
        for number in range(1, args.turns + 2):
            for side in times:
                began = time.perf_counter()
                states[side] = rounds[side](number, states[side])
                times[side].append(time.perf_counter() - began)
            print({side: round(took[-1], 2) for side, took in times.items()}, flush=True)
        hashes = {side: state_hash(state) for side, state in states.items()}
        if len(set(hashes.values())) > 1:
            raise SystemExit(f"the sides end with different weights: {hashes}")

    with open_backend({"kind": "ray", "workers": args.workers}) as (place, _):
        place.simulate(server_app(plan, programme), cohort.training)
    ideal.close()
    turns = list(zip(times["ray"][1:], times["ideal"][1:], strict=True))  # the first is the warm-up
    ratios = [ours / theirs for ours, theirs in turns]
    return {
        "hospitals": args.hospitals,
        "workers": args.workers,
        "images": len(cohort.training[0].train),
        "ideal_first_seconds": round(times["ideal"][0], 3),
        "ray_first_seconds": round(times["ray"][0], 3),
        "ideal_seconds": round(statistics.median(theirs for _, theirs in turns), 3),
        "ray_seconds": round(statistics.median(ours for ours, _ in turns), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_of_minima": round(min(o for o, _ in turns) / min(t for _, t in turns), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=107, help="of a hospital; six tenths are for training")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(args)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
