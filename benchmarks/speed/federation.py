"""What the federation costs: a whole local run against the same training as a bare PyTorch loop.

Ten hospitals, the small CNN, mean aggregation. Both sides take the same number of steps on batches of the
same sizes, each in a random order of its own: the federation through Flower's ServerApp, Strategy, messages
and ClientApps; the bare loop with nothing but tensors. They take turns (A B A B …) in one process after a
warm-up of each, and the ratio is taken pair by pair. Run `python -m benchmarks.speed.federation`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.federation import FederationPlan, Server, server_app, simulate
from fedmerge.models import ModelSpec, Normalisation, State, build
from fedmerge.training import TrainingOptions


def plan_of(rounds: int, epochs: int) -> FederationPlan:
    options = TrainingOptions(lr=0.05, batch_size=16, epochs=epochs, schedule="constant")
    return FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=10, image_size=16),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=rounds,
        local=options,
        fine_tune=options,
    )


def cohort_of(hospitals: int) -> Cohort:
    sites = tuple(SiteSpec(name=f"hospital-{i:03d}") for i in range(hospitals))
    return build_cohort(CohortSpec(name="ten", source="digits", size=16, sites=sites), seed=0)


def federated(plan: FederationPlan, cohort: Cohort) -> None:
    def programme(server: Server) -> None:
        server.rounds(server.start())

    simulate(server_app(plan, programme), cohort.training)


def bare(plan: FederationPlan, cohort: Cohort) -> None:
    """The same rounds, batches, optimiser and validation, written as one would in a notebook."""
    model = build(plan.model, plan.seed)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    options = plan.local
    normalise = plan.normalisation
    for _ in range(plan.rounds):
        states: list[State] = []
        for site in cohort.training:
            model.load_state_dict(state)
            model.train()
            optimizer = torch.optim.SGD(
                model.parameters(),
                options.lr,
                momentum=options.momentum,
                weight_decay=options.weight_decay,
                fused=True,
            )
            for _ in range(options.epochs):
                order = torch.randperm(len(site.train))
                for index in order.split(options.batch_size):
                    loss = cross_entropy(model(normalise(site.train.images[index])), site.train.labels[index])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            states.append({key: value.clone() for key, value in model.state_dict().items()})
        weights = [len(site.train) / sum(len(s.train) for s in cohort.training) for site in cohort.training]
        state = {
            key: sum(w * s[key] for w, s in zip(weights, states, strict=True)).to(value.dtype)
            for key, value in state.items()
        }
        model.load_state_dict(state)
        model.eval()
        with torch.no_grad():
            for site in cohort.training:
                model(normalise(site.val.images)).argmax(1).eq(site.val.labels).float().mean().item()


def seconds(run: Callable[[FederationPlan, Cohort], None], plan: FederationPlan, cohort: Cohort) -> float:
    began = time.perf_counter()
    run(plan, cohort)
    return time.perf_counter() - began


def measure(hospitals: int, rounds: int, epochs: int, pairs: int) -> dict[str, float | int]:
    plan, cohort = plan_of(rounds, epochs), cohort_of(hospitals)
    federated(plan, cohort)
    bare(plan, cohort)
    times = [(seconds(federated, plan, cohort), seconds(bare, plan, cohort)) for _ in range(pairs)]
    return {
        "hospitals": hospitals,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "federated_seconds": round(statistics.median(a for a, _ in times), 3),
        "bare_seconds": round(statistics.median(b for _, b in times), 3),
        "ratio": round(statistics.median(a / b for a, b in times), 3),
        "ratio_min": round(min(a / b for a, b in times), 3),
        "ratio_max": round(max(a / b for a, b in times), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(args.hospitals, args.rounds, args.epochs, args.pairs)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
