"""Round algorithms side by side: the federated model's accuracy where it was trained, and elsewhere.

Eight hospitals share scikit-learn's digits; a ninth, with every class, is unseen. `skew`: each has its own
mix of classes (Dirichlet 0.3). `scanners`: each has its own scanner shift and every class. Small CNN with
batch norm, 20 rounds of one epoch. Where a method has a constant, it is the best of `GRID` by the hospitals'
validation images, on a seed that is not used again. Run `python -m benchmarks.simulations.rounds --out
benchmarks/results/rounds.csv`; what is in that file is not measured again. `--table` prints the table of such
a file, `--page docs/federation-algorithms.md` writes it there.

Columns: `shared` is the accuracy of the federated model on a hospital's test images, `own` that of the model
with the part that the hospital kept to itself, `unseen` that of the federated model at the ninth hospital;
`stopped` is why a run ended before its last round, which leaves the others empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.pages import fill
from fedmerge.analysis import crossed_interval
from fedmerge.data import Cohort, CohortSpec, SiteSpec, Split, build_cohort
from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions, FederationPlan, Server, server_app, simulate
from fedmerge.models import ModelSpec, Normalisation, build, predict
from fedmerge.models.state import State
from fedmerge.reports.figures.panels import signed
from fedmerge.training import TrainingOptions

ALGORITHMS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvg, half of them": {"participation": {"fraction": 0.5}},
    "FedProx": {},
    "FedAvgM": {"optimizer": "fedavgm"},
    "FedAdam": {"optimizer": "fedadam"},
    "FedBN": {"personal": "norms"},
    "FedPer": {"personal": "head"},
    "greedy": {"aggregate": "greedy"},
    "kf": {"aggregate": "kf"},
    "FedAvg, plain SGD": {},
    "SCAFFOLD": {"aggregate": "scaffold"},
}
PLAIN = ("FedAvg, plain SGD", "SCAFFOLD")
"""SGD without momentum: 0.5 is as far as 0.05 with momentum 0.9 goes, 0.05 / (1 - 0.9)."""
REFERENCE = {"SCAFFOLD": "FedAvg, plain SGD"}
"""What an algorithm is compared with, where it is not FedAvg."""
GRID: dict[str, tuple[float, ...]] = {
    "FedProx": (0.001, 0.01, 0.1, 1.0),
    "FedAvgM": (0.3, 0.5, 0.7, 0.9),
    "FedAdam": (0.003, 0.01, 0.03, 0.1),
}
SHIFTS = ("contrast", "bias-field", "noise", "blur", "brightness", "gamma")
LABELS = {"FedAvg, half of them": "half of them (`participation`)", "greedy": "`greedy`", "kf": "`kf`"}
SETTINGS, HOSPITALS, TUNING_SEED = ("skew", "scanners"), 8, 100


def cohort_of(setting: str, seed: int, hospitals: int = HOSPITALS) -> Cohort:
    sites = [
        SiteSpec(
            name=f"hospital-{i}",
            label_skew=0.3 if setting == "skew" else None,
            scanner=[{"kind": SHIFTS[i % len(SHIFTS)], "severity": 3 + i // len(SHIFTS)}]
            if setting == "scanners"
            else (),
        )
        for i in range(hospitals)
    ]
    spec = CohortSpec(
        name=setting, source="digits", size=16, sites=(*sites, SiteSpec(name="unseen", unseen=True))
    )
    return build_cohort(spec, seed)


def plan_of(name: str, constant: float | None, seed: int, rounds: int) -> FederationPlan:
    rules = dict(ALGORITHMS[name])
    if "optimizer" in rules and constant is not None:
        field = "momentum" if name == "FedAvgM" else "lr"
        rules["optimizer"] = {"method": rules["optimizer"], field: constant}
    mu = constant if name == "FedProx" and constant is not None else 0.0
    steps: dict[str, Any] = {"lr": 0.5, "momentum": 0.0} if name in PLAIN else {"lr": 0.05}
    return FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=10, image_size=16, options={"width": 8}),
        normalisation=Normalisation.named("half"),
        seed=seed,
        rounds=rounds,
        local=TrainingOptions(batch_size=16, proximal=mu, **steps),
        fine_tune=None,
        federation=FederationOptions(**rules),
    )


def trained(plan: FederationPlan, cohort: Cohort) -> tuple[State, dict[str, State], float]:
    """The federated model, each hospital's own part of it, and their validation accuracy with it."""
    kept: dict[str, Any] = {}

    def programme(server: Server) -> None:
        kept["state"] = server.rounds(server.start())
        memories = {} if plan.federation.personal == "none" else server.memories()
        kept["own"] = {
            name: {key.removeprefix("now/"): value for key, value in m.items() if key.startswith("now/")}
            for name, m in memories.items()
        }
        last = [
            row
            for row in server.strategy.history
            if (row["round"], row["phase"]) == (plan.rounds, "validate")
        ]
        kept["validation"] = np.average(
            [row["accuracy"] for row in last], weights=[row["num-examples"] for row in last]
        )

    simulate(server_app(plan, programme), cohort.training)
    return kept["state"], kept["own"], float(kept["validation"])


def accuracy(plan: FederationPlan, state: State, split: Split) -> float:
    model = build(plan.model, 0)
    model.load_state_dict(state)
    return float((predict(model, split.images, plan.normalisation).argmax(1) == split.labels).double().mean())


def tuned(setting: str, rounds: int) -> dict[str, float]:
    """The constant of each method that has one, by validation accuracy; the first among equals."""
    cohort, chosen = cohort_of(setting, TUNING_SEED), {}
    for name, grid in GRID.items():
        found = [trained(plan_of(name, value, TUNING_SEED, rounds), cohort)[2] for value in grid]
        chosen[name] = grid[int(np.argmax(found))]
        print(f"{setting}, {name}: {dict(zip(grid, np.round(found, 3).tolist(), strict=True))}", flush=True)
    return chosen


def rows_of(setting: str, seeds: int, rounds: int, have: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row a hospital, for what is not in ``have``; constants chosen for that are not chosen again."""
    mine = have[have["setting"] == setting]
    known = mine.dropna(subset="constant").groupby("algorithm")["constant"].first().to_dict()
    constants = known if known.keys() >= GRID.keys() else tuned(setting, rounds)
    done = set(zip(mine["seed"], mine["algorithm"], strict=True))
    for seed in range(seeds):
        cohort = cohort_of(setting, seed)
        for name in [name for name in ALGORITHMS if (seed, name) not in done]:
            plan = plan_of(name, constants.get(name), seed, rounds)
            same = {"setting": setting, "algorithm": name, "constant": constants.get(name), "seed": seed}
            try:
                state, own, _ = trained(plan, cohort)
            except FedMergeError as error:
                print(f"{setting}, seed {seed}, {name}: {error}", flush=True)
                why = str(error).split(". ")[0]
                yield from (same | {"site": site.name, "stopped": why} for site in cohort.training)
                continue
            same |= {"unseen": accuracy(plan, state, cohort["unseen"].everything)}
            for site in cohort.training:
                shared = accuracy(plan, state, site.test)
                own_part = own.get(site.name)
                with_it = accuracy(plan, state | own_part, site.test) if own_part else shared
                yield same | {"site": site.name, "shared": shared, "own": with_it}
            print(f"{setting}, seed {seed}, {name}: {same['unseen']:.3f}", flush=True)


def table(rows: pd.DataFrame) -> str:
    """Means in %, and the paired difference from FedAvg with its 95 % interval, over seeds and hospitals."""
    lines = ["| setting | algorithm | own | difference | shared | unseen | difference |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for setting, part in rows.groupby("setting", sort=False):
        for name, mine in part.groupby("algorithm", sort=False):
            own, unseen = _difference(part, str(name), "own"), _difference(part, str(name), "unseen")
            constant = mine["constant"].iloc[0]
            label = LABELS.get(str(name), str(name)) + ("" if pd.isna(constant) else f" ({constant:g})")
            if mine["stopped"].notna().any():
                ended = mine.loc[mine["stopped"].notna(), "seed"].nunique()
                worth = mine.groupby("seed")["unseen"].first().dropna()
                said = " and ".join(f"{100 * value:.1f}" for value in worth)
                gone = f"stopped in {ended} of {mine['seed'].nunique()} seeds"
                lines.append(f"| {setting} | {label} | {gone} | | | {said} | |")
                continue
            means = [f"{100 * mine[column].mean():.1f}" for column in ("own", "shared", "unseen")]
            lines.append(f"| {setting} | {label} | {means[0]} | {own} | {means[1]} | {means[2]} | {unseen} |")
    return "\n".join(lines)


def _difference(part: pd.DataFrame, name: str, column: str) -> str:
    if name == "FedAvg":
        return ""
    wide = part.pivot(index=["seed", "site"], columns="algorithm", values=column)
    gap = (wide[name] - wide[REFERENCE.get(name, "FedAvg")]).unstack("site").to_numpy()
    gap = gap[:, :1] if column == "unseen" else gap  # the ninth hospital alone: its value stands in every row
    found = crossed_interval(100 * gap[:, :, None])
    value, low, high = (signed(each[0] / 100, 1) for each in (found.mean, found.low, found.high))
    return f"{value} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write every row as CSV")
    parser.add_argument("--table", type=Path, help="print the table of such a file, and measure nothing")
    parser.add_argument(
        "--page", type=Path, help="with --table: write it between the marks of this page, too"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        text = table(pd.read_csv(args.table))
        print(text)
        if args.page:
            page = args.page.read_text(encoding="utf-8")
            args.page.write_text(fill(page, {"rounds": text}), encoding="utf-8")
        return
    have = pd.DataFrame(columns=["setting", "algorithm", "constant", "seed"])
    if args.out and args.out.exists():
        have = pd.read_csv(args.out)
    rows = have.to_dict("records")
    for setting in args.settings:
        for row in rows_of(setting, args.seeds, args.rounds, have):
            rows.append(row)
            if args.out:  # save after each row, in case the script is stopped
                pd.DataFrame(rows).to_csv(args.out, index=False)
    print(table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
