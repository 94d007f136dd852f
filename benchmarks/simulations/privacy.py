"""What differential privacy costs: accuracy at an unseen hospital and epsilon, by kind of noise.

The small CNN with group norm on scikit-learn's digits, ten rounds of one epoch at learning rate 0.05, delta
1e-5, at 8 hospitals, each with its own mix of classes (Dirichlet 0.3), and at 32 with patients alike. Central
and local noise clip to 1; the adaptive clip begins at 0.1 and follows the median. Run `python -m
benchmarks.simulations.privacy --out benchmarks/results/privacy.csv`; what is in that file is not measured
again, and `--table` prints it. Noise comes from the operating system: rows come out again within the spread
of the seeds, not to the bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.simulations.rounds import accuracy, cohort_of, plan_of, trained
from fedmerge.federation import FederationOptions
from fedmerge.federation.privacy.accounting import epsilon

SETTINGS = {8: "skew", 32: "alike"}
NOISE = (0.03, 0.1, 0.3)
KINDS: dict[str, dict[str, Any]] = {
    "central": {"clip": 1.0},
    "adaptive": {"clip": 0.1},
    "local": {"clip": 1.0},
}


def rows(seeds: int, rounds: int, have: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row a setting, kind, noise and seed that is not in ``have``."""
    done = set(zip(have["hospitals"], have["kind"], have["noise"].fillna(0.0), have["seed"], strict=True))
    cases = [("none", 0.0), *((kind, noise) for kind in KINDS for noise in NOISE)]
    for seed in range(seeds):
        for hospitals, setting in SETTINGS.items():
            cohort = cohort_of(setting, seed, hospitals)
            for kind, noise in cases:
                if (hospitals, kind, noise, seed) in done:
                    continue
                given = None if kind == "none" else {"kind": kind, "noise": noise} | KINDS[kind]
                rules = FederationOptions.model_validate({"privacy": given})
                plain = plan_of("FedAvg", None, seed, rounds)
                network = plain.model.model_copy(update={"options": {"width": 8, "norm": "group"}})
                plan = plain.model_copy(update={"model": network, "federation": rules})
                unseen = accuracy(plan, trained(plan, cohort)[0], cohort["unseen"].everything)
                spent = None if rules.privacy is None else round(epsilon(rules.privacy, rounds), 1)
                row = {"hospitals": hospitals, "kind": kind, "noise": noise or None, "epsilon": spent}
                yield row | {"seed": seed, "unseen": unseen}


def table(found: pd.DataFrame) -> str:
    """Mean in % with the least and the greatest, over seeds."""
    lines = ["| hospitals | noise is | times the clip | epsilon | accuracy at the unseen hospital |"]
    lines += ["| ---: | --- | ---: | ---: | ---: |"]
    for (hospitals, kind, noise), part in found.groupby(
        ["hospitals", "kind", "noise"], dropna=False, sort=False
    ):
        each = 100 * part["unseen"]
        spent = "none" if pd.isna(noise) else f"{part['epsilon'].iloc[0]:,.0f}"
        size = "" if pd.isna(noise) else f"{noise:g}"
        scores = f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})"
        lines.append(f"| {hospitals} | {kind} | {size} | {spent} | {scores} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="the rows, as CSV")
    parser.add_argument("--table", action="store_true", help="print the table, and measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    have = pd.DataFrame(columns=["hospitals", "kind", "noise", "epsilon", "seed", "unseen"])
    if args.out.exists():
        have = pd.read_csv(args.out)
    found = have.to_dict("records")
    for row in () if args.table else rows(args.seeds, args.rounds, have):
        found.append(row)
        pd.DataFrame(found).to_csv(args.out, index=False)
        print(row, flush=True)
    print(table(pd.DataFrame(found)))


if __name__ == "__main__":
    main()
