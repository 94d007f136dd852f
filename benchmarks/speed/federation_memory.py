"""The server's memory for 10, 50 and 200 hospitals with a model of 45 MB: mean aggregation and validation.

Hospitals that do not train (`echo.py`) behind the real Server and Strategy, here and on Ray's workers.
Private memory (USS) of the server's process at its highest during two rounds, above what it was before the
first. Ray keeps weights on their way in shared memory beside it: the part that the server's process saw is
given, too. Run
`python -m benchmarks.speed.federation_memory --out benchmarks/results/federation-memory.json`.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.speed.echo import grid_of, plan_of
from benchmarks.speed.processes import told
from fedmerge.federation import Server, server_app
from fedmerge.federation.simulated import serve

SIDES = ("local", "ray")
MB = 1e6


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """The highest private and shared memory of this process in the block, in MB above that at its start."""
    me, over = psutil.Process(), threading.Event()
    first = me.memory_full_info()
    found = {"private": 0.0, "shared": 0.0}

    def watch() -> None:
        while not over.wait(0.02):
            now = me.memory_full_info()
            found["private"] = max(found["private"], (now.uss - first.uss) / MB)
            found["shared"] = max(found["shared"], (now.rss - now.uss - first.rss + first.uss) / MB)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def rounds(side: str, hospitals: int, workers: int) -> dict[str, float]:
    """The memory of a server over two rounds."""
    kept: dict[str, float] = {}

    def programme(server: Server) -> None:
        state = server.start()
        with peak() as found:
            for number in (1, 2):
                state = server.strategy.round(server.grid, number, state)
        kept.update(found)

    with grid_of(side, hospitals, workers) as grid:
        serve(server_app(plan_of("torchvision:resnet18"), programme), grid)
    return {kind: round(value) for kind, value in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help="one side in this process; JSON in the last line")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side is not None:
        print(json.dumps(rounds(args.side, args.hospitals[0], args.workers)))
        return
    result: list[dict[str, Any]] = []
    for side in SIDES:
        for hospitals in args.hospitals:
            size = ("--hospitals", hospitals, "--workers", args.workers)
            result.append({"side": side, "hospitals": hospitals} | told(__spec__.name, "--side", side, *size))
            print(json.dumps(result[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
