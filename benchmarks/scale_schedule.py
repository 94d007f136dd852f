"""A round of up to 10,000 hospitals with models of up to 1 GB, simulated from the costs measured here.

Nothing is trained: clocks are advanced. A server sends the model to its hospitals one after another over its
link; each trains, for a time drawn from a log-normal; answers queue for the link (the other direction), are
checked and added to the mean at the measured cost, in the order of the hospitals or as they come. Flat, one
server has all of them; in a tree, regional servers have up to ``fan`` each and send sums in float64 (twice
the bytes) upwards. Costs are read from the results of `federation_messages.py` (milliseconds to add a model)
and `federation_scaling.py` (milliseconds a hospital). Run
`python benchmarks/scale_schedule.py --out benchmarks/results/scale-schedule.json --figure docs/scale.png`.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
MESSAGE_MB = 44.8  # of the ResNet-18 with four classes whose messages were measured
GB = 1000.0  # MB


@dataclass(frozen=True)
class Costs:
    """link: MB a second, of a server's network. add: seconds to check an answer's MB and add it to the mean.
    hospital: seconds of a server for every hospital, whatever the model."""

    link: float
    add: float
    hospital: float


@dataclass(frozen=True)
class Round:
    """What became of a round: seconds from its start; the server's share of work in them; the most answers
    that waited, for their turn in the order, at one time."""

    seconds: float
    busy: float
    waiting: int


def flat(training: np.ndarray, mb: float, costs: Costs, *, up: float = 1.0, ordered: bool = True) -> Round:
    """One server and its hospitals. training: seconds of each. mb: the model. up: models in an answer.

    An answer that is through the link waits until those before it are added (``ordered``), or is added next.
    """
    send = mb / costs.link
    back = np.arange(1, len(training) + 1) * send + training
    link = cpu = worked = 0.0
    waiting: list[int] = []
    most, turn = 0, 0
    for i in np.argsort(back, kind="stable"):
        link = max(link, back[i]) + up * mb / costs.link
        heapq.heappush(waiting, int(i))
        most = max(most, len(waiting))
        while waiting and (not ordered or waiting[0] == turn):
            heapq.heappop(waiting)
            turn += 1
            work = costs.add * up * mb + costs.hospital
            cpu = max(cpu, link) + work
            worked += work
    return Round(cpu, worked / cpu, most)


def tree(training: np.ndarray, mb: float, costs: Costs, fan: int, ordered: bool = True) -> Round:
    """Regional servers over ``fan`` hospitals each, one server over them, and levels between as needed."""
    regions = [training[i : i + fan] for i in range(0, len(training), fan)]
    rounds = [flat(part, mb, costs, ordered=ordered) for part in regions]
    above = np.array([round.seconds for round in rounds])
    top = (
        flat(above, mb, costs, up=2.0, ordered=ordered)
        if len(above) <= fan
        else tree(above, mb, costs, fan, ordered)
    )
    return Round(
        top.seconds, max(top.busy, *(r.busy for r in rounds)), max(top.waiting, *(r.waiting for r in rounds))
    )


def measured(link: float) -> Costs:
    """The costs of this machine, as the results beside this file have them."""
    messages = json.loads((RESULTS / "federation-messages.json").read_text())
    scaling = json.loads((RESULTS / "federation-scaling.json").read_text())
    add = (messages["mean"]["ray_ms"] - messages["echo"]["ray_ms"]) / 1000 / MESSAGE_MB
    return Costs(link, max(add, 1e-5), scaling["ray"]["b_ms_a_hospital"] / 1000)


def table(costs: Costs, seconds: float, spread: float, fan: int) -> list[dict[str, Any]]:
    """Every number of hospitals and size of model, flat and as a tree."""
    rows = []
    for mb in (45.0, GB):
        for hospitals in (10, 100, 1000, 10_000):
            training = seconds * np.random.default_rng(0).lognormal(0, spread, hospitals)
            ways = {
                "flat": flat(training, mb, costs),
                "flat, any order": flat(training, mb, costs, ordered=False),
                "tree": tree(training, mb, costs, fan),
            }
            for way, round in ways.items():
                found = asdict(round)
                rows.append(
                    {"mb": mb, "hospitals": hospitals, "way": way, "slowest_training": float(training.max())}
                    | found
                    | {"waiting_gb": round.waiting * mb / GB}
                )
    return rows


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of a round beside the slowest hospital's training."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, mb in zip(made.subplots(1, 2, sharey=True), (45.0, GB), strict=True):
        for way in ("flat", "tree"):
            part = [row for row in rows if row["mb"] == mb and row["way"] == way]
            axes.loglog([r["hospitals"] for r in part], [r["seconds"] / 60 for r in part], "o-", label=way)
        axes.loglog(
            [r["hospitals"] for r in part],
            [r["slowest_training"] / 60 for r in part],
            ":",
            label="training alone",
        )
        axes.set_title(f"model of {mb:g} MB")
        axes.set_xlabel("hospitals")
        axes.legend(frameon=False)
    made.axes[0].set_ylabel("minutes a round")
    made.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--link", type=float, default=1250.0, help="MB a second of a server (10 Gbit/s)")
    parser.add_argument(
        "--training", type=float, default=600.0, help="median seconds of a hospital's training"
    )
    parser.add_argument("--spread", type=float, default=0.5, help="sigma of the logarithm of that time")
    parser.add_argument("--fan", type=int, default=100, help="hospitals of a regional server")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--figure", type=Path, help="draw them as a PNG")
    args = parser.parse_args()
    costs = measured(args.link)
    rows = table(costs, args.training, args.spread, args.fan)
    for row in rows:
        print(
            f"{row['mb']:6.0f} MB {row['hospitals']:6d} {row['way']:16s} {row['seconds'] / 60:8.1f} min, "
            f"server busy {row['busy']:.2f}, waiting {row['waiting']:5d} ({row['waiting_gb']:.1f} GB)"
        )
    if args.out:
        shown = [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        args.out.write_text(json.dumps({"costs": asdict(costs), "rows": shown}, indent=1) + "\n")
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
