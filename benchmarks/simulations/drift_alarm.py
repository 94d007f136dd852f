"""How often a service's drift alarm goes off where nothing changed, and how soon where a scanner does.

The models of a run meet streams of its unseen hospital's images, drawn with replacement, in batches. Half of
the streams stay as they are; in the other half every image after a while is as another scanner shows it. Each
stream has a node and an alarm of its own. Run `fedmerge run quickstart --set training.rounds=4 --out
runs/demo`, then `python -m benchmarks.simulations.drift_alarm runs/demo --out
benchmarks/results/drift-alarm.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.scanner import SHIFTS, Appearance, apply
from fedmerge.schema.validation import validate
from fedmerge.serving.answers import mean_entropy
from fedmerge.serving.drift import DriftAlarm
from fedmerge.serving.served import Served
from fedmerge.workflows.served import Found, find_models, served


def arriving(found: Found) -> Tensor:
    """Return the images of a run's unseen hospital."""
    spec = validate(CohortSpec, found.config["cohort"], "cohort")
    assert found.target is not None
    return build_cohort(spec, 0)[found.target].everything.images


def alarm_at(what: Served, images: Tensor, later: Tensor, args: argparse.Namespace, seed: int) -> int | None:
    """Return the batch of the alarm on one stream; None without one. later: the images after the change."""
    node, alarm, rng = what.build(), DriftAlarm(), np.random.default_rng(seed)
    for number in range(args.batches):
        drawn = torch.from_numpy(rng.integers(0, len(images), args.images))
        batch = what.prepare([(images if number < args.change else later)[drawn]])
        logits, trace = node.observe(batch)
        alarm.see(mean_entropy(logits, what.task), what.names, None if trace is None else trace.encoder)
        if alarm.since is not None:
            return alarm.since
    return None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return false alarms, and delays by kind of shift, for each method."""
    found = find_models([args.run])
    images, rows = arriving(found), {}
    for method in args.methods:
        what = served(found, method, device="cpu")
        still = [alarm_at(what, images, images, args, seed) for seed in range(args.streams)]
        by_shift = {}
        for kind in args.shifts:
            later = apply(images, [Appearance(kind=kind, severity=args.severity)], 0, "later")
            at = [alarm_at(what, images, later, args, seed) for seed in range(args.streams)]
            after = [each - args.change for each in at if each is not None and each > args.change]
            by_shift[kind] = {
                "seen": len(after),
                "median_batches": statistics.median(after) if after else None,
            }
        rows[method] = {"false_alarms": sum(each is not None for each in still), "shifts": by_shift}
    about = {key: getattr(args, key) for key in ("streams", "batches", "images", "change", "severity")}
    return about | {"methods": rows}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", nargs="*", default=["entropy-adaptive", "stream-adaptive"])
    parser.add_argument("--shifts", nargs="*", default=["noise", "blur"], choices=SHIFTS)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--change", type=int, default=50, help="the batch after which the scanner is another")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = json.dumps(measure(args), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
