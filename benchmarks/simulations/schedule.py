"""A round of very many hospitals, simulated: one server for all, or regions that aggregate first.

What a server does to a model is measured here: taking it into the float64 mean, checking that it is finite,
and writing it to the journal with its SHA-256; seconds a GB, medians. Links and training times are assumed,
and given as options. The simulation then follows every hospital: the model goes out over the server's line,
one hospital after the other, and over the hospital's own; it trains (log-normal times, seeded); its answer
comes back the same way, in the order of arrival; the server takes answers in one at a time. With regions,
each is such a server of its own for its hospitals, and the root one for the regions. Run
`python -m benchmarks.simulations.schedule --out benchmarks/results/schedule.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmerge.federation.server.journal import Position, RoundJournal
from fedmerge.models.state import RunningMean, non_finite


@dataclass(frozen=True)
class Costs:
    """Seconds a GB of model, measured: mean and checks for every answer, journal once a round."""

    mean: float
    check: float
    journal: float


@dataclass(frozen=True)
class World:
    """What is assumed. server, hospital: GB/s of their lines, each way. train: median seconds. spread: sigma
    of the logarithm of training times."""

    server: float = 1.25
    hospital: float = 0.0125
    train: float = 600.0
    spread: float = 0.5


def measure(megabytes: int = 256, repeats: int = 5) -> Costs:
    """The costs on this machine, one thread, with a model of so many megabytes."""
    state = {str(i): torch.randn(megabytes * 1_000_000 // 4 // 8) for i in range(8)}
    size = sum(value.nbytes for value in state.values()) / 1e9
    running = RunningMean("average")
    running.add(state, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        journal = RoundJournal(Path(folder))
        rounds = iter(range(1, repeats + 2))
        return Costs(
            mean=_median(lambda: running.add(state, 1.0), repeats) / size,
            check=_median(lambda: non_finite(state), repeats) / size,
            journal=_median(lambda: journal.write(Position(next(rounds), state, {}, {}, [], [])), repeats)
            / size,
        )


def _median(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def gather(size: float, line: float, own: float, work: np.ndarray, take: float) -> float:
    """Return the seconds until a server holds the mean of its children's answers.

    size: GB of the model. line, own: GB/s of the server's and
    of a child's line. work: (n,) seconds that each child needs once it has the model. take: seconds for an
    answer. Whole messages, one after the other, each way.
    """
    sent = np.arange(1, len(work) + 1) * size / line + size / own
    arrives = np.sort(sent + work + size / own)
    line_free = done = 0.0
    for moment in arrives:
        line_free = max(moment, line_free) + size / line
        done = max(line_free, done) + take
    return done


def flat(hospitals: int, size: float, world: World, costs: Costs, seed: int = 0) -> float:
    """Seconds of a round with one server for all."""
    take = size * (costs.mean + costs.check)
    work = _training(hospitals, world, seed)
    return gather(size, world.server, world.hospital, work, take) + size * costs.journal


def tree(hospitals: int, regions: int, size: float, world: World, costs: Costs, seed: int = 0) -> float:
    """Seconds of a round in which each region takes in its share and sends the root one model."""
    take = size * (costs.mean + costs.check)
    shares = np.array_split(_training(hospitals, world, seed), regions)
    inner = [gather(size, world.server, world.hospital, share, take) for share in shares]
    done = gather(size, world.server, world.server, np.array(inner), take)
    return done + size * costs.journal


def _training(hospitals: int, world: World, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.lognormal(math.log(world.train), world.spread, hospitals)


def table(world: World, costs: Costs) -> list[dict[str, Any]]:
    """A row for each number of hospitals and size of model."""
    rows = []
    for size in (0.045, 1.0):
        for hospitals in (10, 100, 1_000, 10_000):
            regions = max(1, round(math.sqrt(hospitals)))
            rows.append(
                {
                    "gigabytes": size,
                    "hospitals": hospitals,
                    "regions": regions,
                    "training_alone": round(float(_training(hospitals, world, 0).max())),
                    "one_server": round(flat(hospitals, size, world, costs)),
                    "with_regions": round(tree(hospitals, regions, size, world, costs)),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in asdict(World()).items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"as assumed: {default}")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, costs = World(args.server, args.hospital, args.train, args.spread), measure()
    found = {"torch": torch.__version__, "seconds_a_gigabyte": asdict(costs), "assumed": asdict(world)}
    result = found | {"rounds": table(world, costs)}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
