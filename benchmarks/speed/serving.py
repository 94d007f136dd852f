"""What a service costs against the bare node: batches a second, and percentiles of an answer's time.

The node alone meets the same batches in this process, with the same preparation, in turns with the service,
and every second turn in the opposite order. The service is ``fedmerge serve`` in a process of its own; each
client has a stream of its own and sends its next batch when the last one was answered. ``cpu_over_node`` is
processor time a batch of the service's process over that of the node: it holds on a busy machine, too.
``over_node`` is batches a second, median over the turns. Run `python -m benchmarks.speed.serving --out
benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import psutil
import torch

from fedmerge.models import ModelPool, ModelSpec, build
from fedmerge.models.zoo import default_normalisation
from fedmerge.serving.images import read_images
from fedmerge.serving.limits import Limits
from fedmerge.serving.tokens import add_token
from fedmerge.workflows.served import find_models, served

HOSPITALS = ("north", "south", "east", "west")


def models_in(folder: Path, network: str = "small-cnn", size: int = 28) -> Path:
    """Write four models at their initial weights into a folder, with cards; return it."""
    pool, spec = ModelPool(folder), ModelSpec(name=network, in_channels=1, n_classes=10, image_size=size)
    for seed, name in enumerate(HOSPITALS):
        pool.add(
            name, build(spec, seed).state_dict(), model=spec, normalisation=default_normalisation(spec),
            class_names=[str(each) for each in range(10)], method="initial weights",
        )  # fmt: skip
    return folder


def npz(images: np.ndarray, key: str = "images") -> bytes:
    """Return an npz with one array."""
    file = io.BytesIO()
    np.savez(file, **{key: images})
    return file.getvalue()


class Running:
    """``fedmerge serve`` in a process of its own, for the length of a block."""

    def __init__(self, models: Path, place: Path, *more: str, token: bool = False) -> None:
        tokens = place / "tokens"
        self.token = add_token(tokens, "bench") if token else None
        given = ["--tokens", str(tokens)] if token else []
        self.log = (place / "serve.log").open("w+")
        command = [sys.executable, "-m", "fedmerge", "serve", str(models), "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(
            [*command, *given, *more], stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"the service did not begin: {self.log.read()}")
        self.where = line.split()[0]
        return self

    def client(self) -> httpx.Client:
        """Return a client with the token."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.where, headers=headers, timeout=120, trust_env=False)

    def processor(self) -> float:
        """Return the processor seconds that the service's process has used."""
        used = psutil.Process(self.process.pid).cpu_times()
        return float(used.user + used.system)

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Side:
    """What was seen of one side: seconds of each answer, and batches, wall and processor seconds a turn."""

    answers: list[float] = field(default_factory=list)
    turns: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, answers: list[float], wall: float, processor: float) -> None:
        """Note a turn."""
        self.answers += answers
        self.turns.append((len(answers), wall, processor))

    @property
    def rates(self) -> list[float]:
        """Batches a second, by turn."""
        return [count / wall for count, wall, _ in self.turns]

    @property
    def cpu(self) -> float:
        """Processor seconds a batch."""
        return sum(turn[2] for turn in self.turns) / sum(turn[0] for turn in self.turns)

    def figures(self) -> dict[str, float]:
        """Return batches a second, percentiles and processor time a batch in milliseconds."""
        p50, p99 = np.percentile(self.answers, [50, 99])
        return {
            "batches": len(self.answers),
            "per_second": round(statistics.median(self.rates), 2),
            "p50_ms": round(1000 * float(p50), 1),
            "p99_ms": round(1000 * float(p99), 1),
            "cpu_ms": round(1000 * self.cpu, 2),
        }


class Bare:
    """The node alone, with the same preparation."""

    def __init__(self, models: Path, body: bytes) -> None:
        self.what, self.body, self.limits = served(find_models([models]), device="cpu"), body, Limits()
        self.node = self.what.build()
        self.answer()

    def answer(self) -> None:
        """Read, prepare and answer the batch."""
        _, pictures = read_images([("body", self.body)], self.limits, self.what.read)
        self.node.observe(self.what.prepare(pictures))

    def turn(self, side: Side, seconds: float) -> None:
        """Answer for so long."""
        times, begun, processor = list[float](), time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < seconds:
            at = time.perf_counter()
            self.answer()
            times.append(time.perf_counter() - at)
        side.add(times, time.perf_counter() - begun, time.process_time() - processor)


def asked(running: Running, clients: int, body: bytes, side: Side, seconds: float) -> None:
    """Let so many clients at once ask for so long."""
    found: list[list[float]] = [[] for _ in range(clients)]
    gate, over = threading.Barrier(clients + 1), threading.Event()

    def one(number: int) -> None:
        with running.client() as client:
            path = f"/v1/batches?stream=client-{number}"
            client.post(path, content=body).raise_for_status()  # its node is built
            gate.wait()
            while not over.is_set():
                at = time.perf_counter()
                client.post(path, content=body).raise_for_status()
                found[number].append(time.perf_counter() - at)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    begun, processor = time.perf_counter(), running.processor()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    answers = [each for times in found for each in times]
    side.add(answers, time.perf_counter() - begun, running.processor() - processor)


def measure(network: str, size: int, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network."""
    images = np.random.default_rng(0).integers(0, 256, (args.images, size, size), dtype=np.uint8)
    found: dict[str, Any] = {"network": network, "pixels": size, "models": len(HOSPITALS)}
    with tempfile.TemporaryDirectory() as name:
        models, body = models_in(Path(name) / "models", network, size), npz(images)
        alone = Bare(models, body)
        with Running(models, Path(name), "--limit", f"streams={max(args.clients)}") as running:
            for count in args.clients:
                node, service = Side(), Side()
                for turn in range(args.turns):
                    sides = [
                        lambda node=node: alone.turn(node, args.seconds),
                        lambda count=count, to=service: asked(running, count, body, to, args.seconds),
                    ]
                    for side in sides if turn % 2 else reversed(sides):
                        side()
                ratios = [a / b for a, b in zip(service.rates, node.rates, strict=True)]
                found[f"{count} clients"] = {
                    "node": node.figures(),
                    "service": service.figures(),
                    "over_node": round(statistics.median(ratios), 3),
                    "cpu_over_node": round(service.cpu / node.cpu, 3),
                }
                print(json.dumps({count: found[f"{count} clients"]}), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["small-cnn"])
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn of each side")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure(network, 28, args) for network in args.networks]
    text = json.dumps(
        {"torch": torch.__version__, "threads": 1, "images": args.images, "cases": cases}, indent=1
    )
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
