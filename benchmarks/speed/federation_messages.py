"""What it costs to send 45 MB of weights to a hospital and get as many back: Ray's workers and Flower's.

Eight hospitals that do not train (`echo.py`), ResNet-18, two workers of one thread: milliseconds a hospital,
with and without the mean of the answers. Flower's side is its simulation engine with its own records, as its
documentation writes a client. Processes take turns (A B A B …), each with some rounds after a warm-up; ratios
are taken turn by turn. Copies: models that the server's process writes a hospital and round, counted where
they would be made: what is put into the object store, and arrays of answers that own their memory. Run
`python -m benchmarks.speed.federation_messages --out benchmarks/results/federation-messages.json`; it needs
`pip install 'flwr[simulation]'`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.speed.echo import grid_of, plan_of
from benchmarks.speed.processes import told
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.plan.train_config import round_config
from fedmerge.models import State, average, build

PLAN = plan_of("torchvision:resnet18")
SIDES = ("ray", "flower")
Take = Callable[[Message], State]


def exchanges(grid: Any, rounds: int, give: Callable[[State], ArrayRecord], take: Take) -> dict[str, Any]:
    """Milliseconds a hospital, medians over rounds after a warm-up."""
    nodes = list(grid.get_node_ids())
    state = dict(build(PLAN.model, 0).state_dict())
    times: dict[str, list[float]] = {"echo": [], "mean": []}
    for number in range(rounds + 1):
        for kind, took in times.items():
            began = time.perf_counter()
            states = map(take, send(grid, nodes, give(state), f"{number} {kind}"))
            state = average(states) if kind == "mean" else list(states)[-1]
            took.append((time.perf_counter() - began) / len(nodes) * 1000)
    return {kind: round(statistics.median(took[1:]), 1) for kind, took in times.items()}


def send(grid: Any, nodes: list[int], arrays: ArrayRecord, group: str) -> Iterable[Message]:
    """One training message a node, all with the same weights."""
    job = round_config(PLAN, 1)
    return grid.send_and_receive([request_message("train", node, group, job, arrays) for node in nodes])


def weights(answer: Message) -> State:
    """Take the weights out of an answer, freeing the message's own copy as they are read."""
    return borrow(answer.content.array_records["arrays"], keep=False)


def on_ray(hospitals: int, workers: int, rounds: int) -> dict[str, Any]:
    """Measure our grid with its records, and the copies it makes."""
    with grid_of("ray", hospitals, workers) as grid:
        figures = exchanges(grid, rounds, lend, weights)
        nodes, puts = list(grid.get_node_ids()), grid.dispatcher.model_cache.puts
        state = dict(build(PLAN.model, 0).state_dict())
        size = sum(value.nbytes for value in state.values())
        written = 0
        for answer in send(grid, nodes, lend(state), "copies"):
            arrays = answer.content.array_records["arrays"].values()
            written += sum(array.numpy().nbytes for array in arrays if array.numpy().flags.owndata)
        written += (grid.dispatcher.model_cache.puts - puts) * size
        return figures | {"copies": round(written / size / hospitals, 3)}


def on_flower(hospitals: int, workers: int, rounds: int) -> dict[str, Any]:
    """Measure Flower's simulation engine."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from benchmarks.speed import (
        federation_messages,  # by its name, so that it is not pickled with every message
    )

    app, figures = ServerApp(), {}

    @app.main()
    def main(grid: Any, context: Any) -> None:
        while len(list(grid.get_node_ids())) < hospitals:
            time.sleep(0.05)
        figures.update(exchanges(grid, rounds, ArrayRecord, _read))

    run_simulation(
        server_app=app,
        client_app=federation_messages.flower_client,
        num_supernodes=hospitals,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": workers, "log_to_driver": False, "logging_level": "ERROR"},
        },
    )
    return figures


def _read(answer: Message) -> State:
    return dict(answer.content.array_records["arrays"].to_torch_state_dict())


flower_client = ClientApp()


@lru_cache
def _network() -> torch.nn.Module:
    torch.set_num_threads(1)
    return build(PLAN.model, 0)


@flower_client.train()
def _train(message: Message, context: Any) -> Message:
    """Answer with the weights that were sent, as a Flower client."""
    model = _network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    size = (args.hospitals, args.workers, args.rounds)
    turns = []
    for _ in range(args.turns):
        turns.append({side: told(__spec__.name, "--side", side, "--size", *size) for side in SIDES})
        print(turns[-1], flush=True)
    figures: dict[str, Any] = {"hospitals": args.hospitals, "workers": args.workers}
    for kind in ("echo", "mean"):
        ratios = [turn["flower"][kind] / turn["ray"][kind] for turn in turns]
        figures[kind] = {
            "ray_ms": statistics.median(turn["ray"][kind] for turn in turns),
            "flower_ms": statistics.median(turn["flower"][kind] for turn in turns),
            "flower_against_ray": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return figures | {"copies": max(turn["ray"]["copies"] for turn in turns)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="one side in this process; JSON in the last line")
    parser.add_argument("--size", type=int, nargs=3, help="hospitals, workers and rounds of that side")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side is not None:
        print(json.dumps((on_ray if args.side == "ray" else on_flower)(*args.size)))
        return
    result = measure(args)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
