"""What a service costs against the bare node: batches a second, and percentiles of an answer's time.

The node alone meets the same batches in this process, with the same preparation, before and after each number
of clients. The service is ``fedmerge serve`` in a process of its own; each client has a stream of its own and
sends its next batch when the last one was answered. ``over_node`` is batches a second of the service over
those of the node in the same turn. Run `python -m benchmarks.speed.serving --out
benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import torch

from fedmerge.experiment.served import find_models, served
from fedmerge.models import ModelPool, ModelSpec, build
from fedmerge.models.zoo import default_normalisation
from fedmerge.serving.images import read_images
from fedmerge.serving.limits import Limits
from fedmerge.serving.tokens import add_token

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

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def bare(models: Path, body: bytes, seconds: float) -> list[float]:
    """Return the seconds of each batch of the node alone: read, prepared and answered, for so long."""
    what = served(find_models([models]), device="cpu")
    node, limits, times = what.build(), Limits(), list[float]()
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        begun = time.perf_counter()
        _, pictures = read_images([("body", body)], limits)
        node.observe(what.prepare(pictures))
        times.append(time.perf_counter() - begun)
    return times[1:] or times


def asked(running: Running, clients: int, body: bytes, seconds: float) -> tuple[list[float], float]:
    """Return the seconds of each answer to so many clients at once, and the seconds of all of it."""
    found: list[list[float]] = [[] for _ in range(clients)]
    gate, over = threading.Barrier(clients + 1), threading.Event()

    def one(number: int) -> None:
        with running.client() as client:
            path = f"/v1/batches?stream=client-{number}"
            client.post(path, content=body).raise_for_status()  # its node is built
            gate.wait()
            while not over.is_set():
                begun = time.perf_counter()
                client.post(path, content=body).raise_for_status()
                found[number].append(time.perf_counter() - begun)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return [each for times in found for each in times], time.perf_counter() - begun


def figures(times: list[float], seconds: float) -> dict[str, float]:
    """Return batches a second, and the median and 99th percentile in milliseconds."""
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "batches": len(times),
        "per_second": round(len(times) / seconds, 2),
        "p50_ms": round(1000 * float(p50), 2),
        "p99_ms": round(1000 * float(p99), 2),
    }


def measure(network: str, size: int, images: int, clients: list[int], seconds: float) -> dict[str, Any]:
    """All figures of one network."""
    body = npz(np.random.default_rng(0).integers(0, 256, (images, size, size), dtype=np.uint8))
    found: dict[str, Any] = {"network": network, "pixels": size, "models": len(HOSPITALS), "images": images}
    with tempfile.TemporaryDirectory() as name:
        models = models_in(Path(name) / "models", network, size)
        with Running(models, Path(name), "--limit", f"streams={max(clients)}") as running:
            for count in clients:
                before = bare(models, body, seconds)
                there, spent = asked(running, count, body, seconds)
                alone = before + bare(models, body, seconds)
                node = figures(alone, sum(alone))
                service = figures(there, spent)
                found[f"{count} clients"] = {
                    "node": node,
                    "service": service,
                    "over_node": round(service["per_second"] / node["per_second"], 3),
                }
                print(json.dumps({count: found[f"{count} clients"]}), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [
        measure(network, size, args.images, args.clients, args.seconds)
        for network, size in (("small-cnn", 28), ("resnet18", 28))
    ]
    text = json.dumps({"torch": torch.__version__, "threads": 1, "cases": cases}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
