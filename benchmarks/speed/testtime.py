"""What the test-time node costs against bare forward passes, measured in the same process, turn by turn.

M models of one architecture at their initial weights meet random batches. A bare pass is one of a plain
network in evaluation mode without gradients; "bare all" is M + 1 of them, one after another, each of a
network of its own. The node scores M models, merges them and predicts, so ``node_over_bare_all`` is what
merging, scoring and the guard add. With a probe it scores the models on less: ``over_one_pass`` is its time
in single passes. Every repeat measures all in turn; ratios are medians of each repeat's own. First batches,
which find the head, are not timed. ``ways_over_views`` compares ways to ask the M sources alone: one after
another through views of the flat matrix, by ``functional_call``, by ``vmap`` over stacked weights, and on a
GPU as one CUDA graph with a branch a source, which is what the node does there. There ``recorded`` also has
bare passes as a CUDA graph each, for what a graph gives to anybody. Run
`python -m benchmarks.speed.testtime --out benchmarks/results/testtime-speed.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedmerge.models import ModelSpec, build
from fedmerge.models.flat import FlatModels
from fedmerge.testtime import EntropyAdaptive
from fedmerge.testtime.answers import ask_all
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.options import Coefficients, Norms, Prediction
from fedmerge.testtime.passes import Passes
from fedmerge.testtime.probe import Probe

NETWORKS = {"efficientnet-lite0": 96, "resnet18": 64, "small-cnn": 28}
STREAM: dict[str, Any] = {"norms": Norms("stream"), "guard": Guard()}
NODES: dict[str, dict[str, Any]] = {
    "entropy-adaptive": {},
    "shared coefficients": {"coefficients": Coefficients(head="shared")},
    "stream norms and guard": STREAM,
}
ON_GPU: dict[str, dict[str, Any]] = {
    "no graphs": {"predict": Prediction(graphs=False)},
    "bfloat16": {"predict": Prediction(precision="bfloat16")},
    "bfloat16, no graphs": {"predict": Prediction(graphs=False, precision="bfloat16")},
    "stream norms and guard, no graphs": STREAM | {"predict": Prediction(graphs=False)},
    "stream norms and guard, bfloat16": STREAM | {"predict": Prediction(precision="bfloat16")},
}
PROBES: dict[str, Probe] = {
    "every batch, all images": Probe(),
    "16 images": Probe(images=16),
    "12 images": Probe(images=12),
    "8 images": Probe(images=8),
    "half the side": Probe(size=48),
    "every 4th batch": Probe(every=4),
    "every 8th batch, or on drift": Probe(every=8, drift=0.1),
    "16 images of every 2nd batch": Probe(images=16, every=2),
}


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The time of one call, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each of ``runs`` in each repeat, all in turn; every second repeat in the opposite order."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 3):
        names = list(runs) if repeat % 2 else list(reversed(runs))
        for name in names:
            spent = seconds(runs[name], device)
            if repeat > 2:  # the first ones warm up, and record what comes again
                times[name].append(spent)
    return times


def over(times: list[float], base: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(times, base, strict=True)), 3)


class Bare:
    """Bare passes, as many as there are networks."""

    def __init__(self, networks: list[nn.Module], batch: Tensor) -> None:
        self.networks, self.batch = networks, batch

    @torch.no_grad()
    def __call__(self) -> None:
        for network in self.networks:
            network(self.batch)


class Batches:
    """A node that meets ``count`` batches: enough for its probe to come round once."""

    def __init__(self, node: EntropyAdaptive, batch: Tensor, count: int) -> None:
        self.node, self.batch, self.count = node, batch, count

    def __call__(self) -> None:
        self.node.reset()
        for _ in range(self.count):
            self.node(self.batch)


class Ways:
    """Ways to ask the sources about a batch; ``all``: by name, the ways that this network allows."""

    def __init__(self, models: list[nn.Module], batch: Tensor) -> None:
        self.flat, self.batch = FlatModels(models, models[0]).to(batch.device), batch
        self.one = torch.ones(len(models), device=batch.device)
        states = [self.flat.source(index) for index in range(len(models))]
        self.states = states
        self.stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        self.passes = Passes()
        self.all: dict[str, Callable[[], Any]] = {"views": self.views, "functional_call": self.functional}
        try:
            self.mapped()
            self.all["vmap"] = self.mapped
        except RuntimeError as error:
            print(f"vmap: {error}", file=sys.stderr)
        if batch.device.type == "cuda":
            self.all["graph"] = self.graph

    def views(self) -> None:
        ask_all(self.flat, self.batch, self.one)

    def graph(self) -> None:
        ask_all(self.flat, self.batch, self.one, passes=self.passes)

    @torch.no_grad()
    def functional(self) -> None:
        for state in self.states:
            functional_call(self.flat.model(0), state, (self.batch,))

    @torch.no_grad()
    def mapped(self) -> None:
        vmap(lambda state: functional_call(self.flat.model(0), state, (self.batch,)))(self.stacked)


class Recorded:
    """Bare passes, each replayed from a CUDA graph."""

    def __init__(self, networks: list[nn.Module], batch: Tensor) -> None:
        self.runs = [Passes() for _ in networks]
        self.networks, self.batch = networks, batch

    def __call__(self) -> None:
        for run, network in zip(self.runs, self.networks, strict=True):
            run("bare", lambda batch, network=network: (network(batch),), self.batch)


def measure(name: str, sources: int, images: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """All ratios of one network."""
    size, gpu = NETWORKS[name], device.type == "cuda"
    spec = ModelSpec(name=name, in_channels=3, n_classes=7, image_size=size)
    networks = [build(spec, seed).eval().to(device) for seed in range(sources + 1)]
    models = networks[:sources]
    batch = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    runs: dict[str, Callable[[], Any]] = {"one": Bare(networks[:1], batch), "all": Bare(networks, batch)}
    if gpu:
        runs |= {"recorded": Recorded(networks, batch)}
    nodes = NODES | ON_GPU if gpu else NODES
    for title, choices in nodes.items():
        runs[title] = Batches(EntropyAdaptive(models, **choices).to(device), batch, 1)
    ways = Ways(models, batch).all
    runs |= {f"way: {way}": run for way, run in ways.items()}
    probes = {title: p for title, p in PROBES.items() if p.size is None or p.size < size}
    for title, probe in probes.items():
        runs[f"probe: {title}"] = Batches(EntropyAdaptive(models, probe=probe).to(device), batch, probe.every)
    times = rounds(runs, repeats, device)
    found = {
        "network": name,
        "pixels": size,
        "models": sources,
        "batch": images,
        "bare_seconds": round(statistics.median(times["one"]), 5),
        "node_over_bare_all": {title: over(times[title], times["all"]) for title in nodes},
        "ways_over_views": {way: over(times[f"way: {way}"], times["way: views"]) for way in ways},
        "over_one_pass": {
            title: round(over(times[f"probe: {title}"], times["one"]) / probe.every, 3)
            for title, probe in probes.items()
        },
    }
    if gpu:
        found["recorded"] = {
            "bare all": over(times["recorded"], times["all"]),
            "node over it": over(times["entropy-adaptive"], times["recorded"]),
        }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cases = [measure(name, args.models, args.batch, args.repeats, device) for name in args.networks]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {args.threads} threads"
    text = json.dumps({"device": where, "torch": torch.__version__, "cases": cases}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
