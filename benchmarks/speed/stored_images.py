"""Images read from the cache's file against images in memory: steps a second, and memory at the peak.

Made images of noise, grey, written as an entry of the cache; a training of `small-cnn` over shuffled
batches, the same bits both ways. Memory is this process's resident set at the peak, less that before the
images were there. Each side runs in a process of its own. Run `python -m benchmarks.speed.stored_images
--images 100000 --out benchmarks/results/stored-images.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.speed.processes import told
from fedmerge.data.images.facts import Facts
from fedmerge.data.images.pixels import PixelFile
from fedmerge.data.images.stored import stored
from fedmerge.models.inputs import Normalisation
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit

SIDE, BATCH, PIECE = 224, 64, 500


def written(path: Path, count: int) -> None:
    """Write images of noise, one after the other."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, count, PIECE):
            rng.integers(0, 256, (min(PIECE, count - start), SIDE, SIDE), dtype=np.uint8).tofile(file)


def side(path: Path, count: int, how: str, steps: int) -> dict[str, Any]:
    """Train over the images in one way; return seconds a step, MB at the peak, and the last loss."""
    torch.set_num_threads(1)
    process = psutil.Process()
    before, peak, ended = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    shape = (count, 1, SIDE, SIDE)
    if how == "stored":
        nothing = np.zeros(count, dtype=np.uint8)
        images = stored(PixelFile(path, shape, Facts((b"",) * count, nothing, nothing)))
    else:
        images = torch.from_numpy(np.fromfile(path, dtype=np.uint8).reshape(shape))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 2
    model = build(
        ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=SIDE, options={"width": 4}), 0
    )
    loss, began = 0.0, time.perf_counter()
    began_gather = 0.0
    for start in range(0, steps * BATCH, BATCH):
        index = order[torch.arange(start, start + BATCH) % count]
        t = time.perf_counter()
        batch = images[index]
        began_gather += time.perf_counter() - t
        options = TrainingOptions(batch_size=BATCH)
        loss = fit(
            model, batch, labels[index], options, normalise=Normalisation.named("half"), draws=Draws(0)
        ).losses[-1]
    took = time.perf_counter() - began
    ended.set()
    watcher.join()
    return {
        "seconds_a_step": took / steps,
        "of_it_reading": began_gather / steps,
        "mb": (peak - before) / 1e6,
        "loss": loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--side", nargs=2, metavar=("FILE", "HOW"), help="one side, as the benchmark runs it")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(side(Path(args.side[0]), args.images, args.side[1], args.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images"
        written(path, args.images)
        shared = ("--images", args.images, "--steps", args.steps, "--side", path)
        found = {how: told("benchmarks.speed.stored_images", *shared, how) for how in ("memory", "stored")}
    if found["memory"]["loss"] != found["stored"]["loss"]:
        raise SystemExit(f"the two ways differ: {found}")
    rate = found["memory"]["seconds_a_step"] / found["stored"]["seconds_a_step"]
    result = {"images": args.images, "side": SIDE, "steps": args.steps, "step_rate": round(rate, 3)}
    result |= {
        how: {key: round(value, 6 if key != "mb" else 0) for key, value in each.items()}
        for how, each in found.items()
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
