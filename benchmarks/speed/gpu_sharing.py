"""What small hospitals gain by sharing one GPU: workers side by side against one after another.

Each worker is a process that keeps its hospitals' images and a network on the device, as a Ray actor does.
A round trains every hospital for one epoch from the same weights (`fedmerge.training.fit`); rounds with 1, 2,
4 … workers take turns, and ratios are medians of each repeat's own. Processes are started, and have used the
device once, before anything is timed. Run
`python -m benchmarks.speed.gpu_sharing --device cuda --out benchmarks/results/gpu-sharing.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.seeding import Draws, generator
from fedmerge.training import TrainingOptions, fit

NETWORKS = {"small-cnn": 28, "resnet18": 28}


def work(pipe: Connection, hospitals: list[int], name: str, images: int, device: str) -> None:
    """A worker: train each of ``hospitals`` in turn whenever a word comes through the pipe."""
    torch.set_num_threads(1)
    size = NETWORKS[name]
    spec = ModelSpec(name=name, in_channels=3, n_classes=7, image_size=size)
    model = build(spec, 0).to(device)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    data = []
    for hospital in hospitals:
        drawn = generator(hospital, "images")
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=drawn)
        data.append((pixels, torch.randint(0, 7, (images,), generator=drawn)))
    options = TrainingOptions(lr=0.01, batch_size=32, epochs=1)
    while pipe.recv():
        for hospital, (pixels, labels) in zip(hospitals, data, strict=True):
            model.load_state_dict(start)
            fit(
                model,
                pixels,
                labels,
                options,
                normalise=Normalisation.named("half"),
                draws=Draws(0, purpose="round", round=1, site=str(hospital)),
            )
        pipe.send(True)


class Team:
    """``workers`` processes that share the hospitals."""

    def __init__(self, workers: int, hospitals: int, name: str, images: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for worker in range(workers):
            ours, theirs = context.Pipe()
            own = list(range(worker, hospitals, workers))
            process = context.Process(target=work, args=(theirs, own, name, images, device), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def round(self) -> float:
        """Seconds until every hospital has trained once."""
        began = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()
        return time.perf_counter() - began

    def end(self) -> None:
        """Stop the processes."""
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times and ratios of one network."""
    teams = {
        workers: Team(workers, args.hospitals, name, args.images, args.device) for workers in args.workers
    }
    try:
        for team in teams.values():
            team.round()
        times: dict[int, list[float]] = {workers: [] for workers in teams}
        for repeat in range(args.repeats):
            for workers in args.workers if repeat % 2 else reversed(args.workers):
                times[workers].append(teams[workers].round())
    finally:
        for team in teams.values():
            team.end()
    first = times[args.workers[0]]
    return {
        "network": name,
        "hospitals": args.hospitals,
        "images": args.images,
        "seconds": {str(w): round(statistics.median(found), 3) for w, found in times.items()},
        "speed_up": {
            str(w): round(statistics.median(a / b for a, b in zip(first, found, strict=True)), 2)
            for w, found in times.items()
        },
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--hospitals", type=int, default=16)
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    cases = [measure(name, args) for name in args.networks]
    where = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    text = json.dumps({"device": where, "torch": torch.__version__, "cases": cases}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
