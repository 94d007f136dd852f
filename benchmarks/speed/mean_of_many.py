"""What the mean of many models costs: time against reading their files once, and memory in models.

Fifty torchvision ResNet-18 are written to a temporary pool; ``fm.merge(pool, "mean")`` and reading take turns
(A B C A B C …) in one process after a warm-up of each, so that the page cache is warm for all, and ratios
are taken round by round. Reading is measured in two ways: each file whole into bytes of its own, as a program
reads a file (``read``), and all files into one buffer that is already there, the least that copying the bytes
out of the page cache can cost (``copy``). The merge reads, sums in float64, checks, builds the network and
returns it. Peak memory is the peak resident size of a process that opens the pool and merges, less that of
one that has the same imports and opens it, in sizes of one file (VmHWM of /proc: what getrusage reports, a
child inherits from its parent); mapped files count while they are resident. What loading one model takes is
given too. Run `python -m benchmarks.speed.mean_of_many`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision  # noqa: F401  (so that importing it is no part of what is measured)

import fedmerge as fm
from fedmerge.models import ModelSpec, Normalisation, build

SPEC = ModelSpec(name="torchvision:resnet18", in_channels=3, n_classes=1000, image_size=224)


def write_pool(folder: Path, models: int) -> fm.ModelPool:
    """One initialised network and noise of its own on every parameter and statistic of each model."""
    pool = fm.ModelPool(folder)
    base = build(SPEC, seed=0).state_dict()
    for index in range(models):
        draws = torch.Generator().manual_seed(index)
        state = {
            key: value + 0.01 * torch.rand(value.shape, generator=draws)
            if value.is_floating_point()
            else value
            for key, value in base.items()
        }
        pool.add(
            f"model-{index:03d}",
            state,
            model=SPEC,
            normalisation=Normalisation.named("imagenet"),
            class_names=[str(i) for i in range(SPEC.n_classes)],
            method="noise",
        )
    return pool


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def read(files: list[Path]) -> None:
    for path in files:
        path.read_bytes()


def copy(files: list[Path], buffer: bytearray) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            file.readinto(buffer)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak(folder: Path, programme: str, threads: int) -> int:
    """Peak resident bytes of a new process that opens the pool and runs ``programme``."""
    command = [sys.executable, "-m", __spec__.name, "--child", programme, "--folder", str(folder)]
    out = subprocess.run(
        [*command, "--threads", str(threads)], check=True, capture_output=True, text=True
    ).stdout
    return int(out)


def child(folder: Path, programme: str) -> None:
    pool = fm.ModelPool(folder)
    merge = fm.merge  # imported here, whatever the programme
    if programme == "load":
        pool.model(pool.names[0])
    if programme == "merge":
        merge(pool, "mean")
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def measure(folder: Path, models: int, rounds: int, threads: int) -> dict[str, float | int | str]:
    pool = write_pool(folder, models)
    files = files_of(folder)
    size = files[0].stat().st_size
    buffer = bytearray(size)
    sides: dict[str, Callable[[], object]] = {
        "merge": lambda: fm.merge(pool, "mean"),
        "read": lambda: read(files),
        "copy": lambda: copy(files, buffer),
    }
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(seconds(run))
    memory = {name: peak(folder, name, threads) for name in ("nothing", "load", "merge")}
    return {
        "models": models,
        "megabytes_a_model": round(size / 1e6, 1),
        "threads": threads,
        "torch": torch.__version__,
        "rounds": rounds,
        **{f"{name}_seconds": round(statistics.median(values), 3) for name, values in times.items()},
        **{
            f"merge_over_{other}": round(
                statistics.median(a / b for a, b in zip(times["merge"], times[other], strict=True)), 2
            )
            for other in ("read", "copy")
        },
        "peak_in_models": round((memory["merge"] - memory["nothing"]) / size, 2),
        "peak_of_loading_one_in_models": round((memory["load"] - memory["nothing"]) / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--child", choices=["nothing", "load", "merge"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.folder, args.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.models, args.rounds, args.threads)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
