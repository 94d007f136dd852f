"""A small federation, from its process's start to its end: here, on our Ray workers, on Flower's simulation.

Eight hospitals with scikit-learn's digits, the small CNN, six rounds of one epoch, mean aggregation with
validation: some half a second a round in a plain loop, so that what is measured is mostly the start. All
three run the same hospitals and the same strategy with the same seeds, and must end with the same weights.
Each run is a process of its own; they take turns (A B C A B C …), and ratios are taken turn by turn. Run
`python -m benchmarks.speed.federation_start --out benchmarks/results/federation-start.json`; it needs
`pip install 'flwr[simulation]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from functools import lru_cache, partial
from pathlib import Path

from benchmarks.speed.processes import told

SIDES = ("local", "ray", "flower")


def here_or_on_ray(kind: str, workers: int, hospitals: int, rounds: int) -> str:
    """Run on our backends, ``local`` or ``ray``; return the final weights' hash."""
    from benchmarks.speed.federation import cohort_of, plan_of
    from fedmerge.federation import Server, open_backend, server_app
    from fedmerge.models import state_hash

    plan, hashes = plan_of(rounds, 1), []

    def programme(server: Server) -> None:
        hashes.append(state_hash(server.rounds(server.start())))

    with open_backend("local" if kind == "local" else {"kind": "ray", "workers": workers}) as (place, _):
        place.simulate(server_app(plan, programme), cohort_of(hospitals).training)
    return hashes[0]


def on_flower(workers: int, hospitals: int, rounds: int) -> str:
    """Run on Flower's simulation engine, same ClientApp and Strategy; return the final weights' hash."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from benchmarks.speed.federation import cohort_of, plan_of
    from fedmerge.federation import Server
    from fedmerge.models import state_hash

    os.environ["HOSPITALS"] = str(hospitals)
    names = [site.name for site in cohort_of(hospitals).training]
    app, hashes = ServerApp(), []

    @app.main()
    def main(grid, context):  # type: ignore[no-untyped-def]
        server = Server(grid, plan_of(rounds, 1), names, patience=60.0)
        hashes.append(state_hash(server.rounds(server.start())))

    from benchmarks.speed import federation_start  # by its name, so that it is not pickled with every message

    run_simulation(
        server_app=app,
        client_app=federation_start.client(),
        num_supernodes=hospitals,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": workers, "log_to_driver": False, "logging_level": "ERROR"},
        },
    )
    return hashes[0]


def client():  # type: ignore[no-untyped-def]
    """Flower's ClientApp; each worker process builds the cohort once and keeps its hospitals."""
    from fedmerge.federation import client_app

    return client_app(lambda context: hospital(int(context.node_config["partition-id"])))


@lru_cache
def hospital(number: int):  # type: ignore[no-untyped-def]
    """A hospital of this worker process."""
    from fedmerge.federation import Hospital

    return Hospital(cohort().training[number])


@lru_cache
def cohort():  # type: ignore[no-untyped-def]
    """The cohort, built once a process."""
    import torch

    from benchmarks.speed.federation import cohort_of

    torch.set_num_threads(1)
    return cohort_of(int(os.environ["HOSPITALS"]))


def seconds(side: str, args: argparse.Namespace) -> tuple[float, str]:
    """Run one side in a process of its own; return its seconds from start to end, and its weights' hash."""
    began = time.perf_counter()
    hashed = told(__spec__.name, "--side", side, "--size", args.workers, args.hospitals, args.rounds)
    return time.perf_counter() - began, hashed


def measure(args: argparse.Namespace) -> dict[str, object]:
    turns = []
    for turn in range(args.turns):
        told = {side: seconds(side, args) for side in SIDES}
        if len({hashed for _, hashed in told.values()}) > 1:
            raise SystemExit(f"the sides end with different weights: {told}")
        turns.append({side: took for side, (took, _) in told.items()})
        print(f"turn {turn + 1}:", {side: round(took, 1) for side, took in turns[-1].items()}, flush=True)
    figures: dict[str, object] = {"hospitals": args.hospitals, "rounds": args.rounds, "workers": args.workers}
    for side in SIDES:
        figures[f"{side}_seconds"] = round(statistics.median(turn[side] for turn in turns), 2)
    for side in ("local", "ray"):
        ratios = [turn[side] / turn["flower"] for turn in turns]
        figures[f"{side}_against_flower"] = round(statistics.median(ratios), 3)
        figures[f"{side}_against_flower_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help="one side in this process; JSON in the last line")
    parser.add_argument("--size", type=int, nargs=3, help="workers, hospitals and rounds of that side")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.side is not None:
        import torch

        torch.set_num_threads(1)
        side = on_flower if args.side == "flower" else partial(here_or_on_ray, args.side)
        print(json.dumps(side(*args.size)))
        return
    result = measure(args)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
