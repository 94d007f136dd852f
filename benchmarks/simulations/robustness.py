"""Accuracy against the share of hostile hospitals, for every robust aggregator and for the mean.

Ten hospitals share scikit-learn's digits, with like or unlike patients (Dirichlet 1.0 over the classes); a
small CNN is trained together, and tested on images of a site that does not train. Fault injection makes 0 to
40 % of the hospitals hostile in every round: they flip their labels, or turn their update round and make it
ten times as long. All aggregators are set for three hostile hospitals in ten, whatever there are; three
seeds, which also choose who is hostile. Run `python -m benchmarks.simulations.robustness --out
benchmarks/results/robustness.csv --figure docs/robustness.png`.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.experiment.formatting import listing, percent
from fedmerge.federation import FederationOptions, FederationPlan, Server, server_app, simulate
from fedmerge.models import ModelSpec, Normalisation, State, build, predict
from fedmerge.reports.figures.panels import head, line_styles, panels
from fedmerge.reports.figures.style import WIDE, Caption, render, styled
from fedmerge.seeding import numpy_generator
from fedmerge.training import TrainingOptions

AGGREGATORS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "median": {"method": "median"},
    "trimmed-mean": {"method": "trimmed-mean", "trim": 0.3},
    "krum": {"method": "krum", "hostile": 3},
    "multi-krum": {"method": "multi-krum", "hostile": 3},
    "norm-clipping": {"method": "norm-clipping"},
}
ATTACKS: dict[str, dict[str, Any]] = {
    "labels flipped": {"kind": "label-flip"},
    "update x -10": {"kind": "huge-norm", "scale": -10.0},
}
PATIENTS: dict[str, float | None] = {"like patients": None, "unlike patients": 1.0}
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
TESTED = "tested"
CHANCE = 0.1


@dataclass(frozen=True)
class Case:
    """One run."""

    patients: str
    attack: str
    share: float
    aggregator: str
    seed: int
    hospitals: int = 10
    rounds: int = 10
    width: int = 16


def cohort_of(case: Case) -> Cohort:
    """The hospitals, and a site as large as three of them to test at."""
    skew = PATIENTS[case.patients]
    sites = [SiteSpec(name=f"hospital-{i:02d}", label_skew=skew) for i in range(case.hospitals)]
    sites.append(SiteSpec(name=TESTED, share=3.0, unseen=True))
    return build_cohort(CohortSpec(name="ten", source="digits", size=8, sites=tuple(sites)), seed=case.seed)


def plan_of(case: Case, hospitals: Sequence[str]) -> FederationPlan:
    """Plan one run; hostile hospitals of a smaller share are among those of a larger one."""
    drawn = numpy_generator(case.seed, "hostile").permutation(list(hospitals))
    hostile = tuple(drawn[: round(case.share * len(drawn))].tolist())
    faults = [ATTACKS[case.attack] | {"site": hostile}] if hostile else []
    options = {"aggregate": AGGREGATORS[case.aggregator], "faults": faults}
    local = TrainingOptions(lr=0.1, batch_size=32, epochs=2)
    return FederationPlan(
        model=ModelSpec(
            name="small-cnn",
            in_channels=1,
            n_classes=10,
            image_size=8,
            options={"norm": "group", "width": case.width},
        ),
        normalisation=Normalisation.named("half"),
        seed=case.seed,
        rounds=case.rounds,
        local=local,
        fine_tune=local,
        federation=FederationOptions.model_validate(options),
    )


def run(case: Case) -> dict[str, Any]:
    """Train together, and test; a model whose weights overflowed answers at chance."""
    torch.set_num_threads(1)
    cohort = cohort_of(case)
    plan = plan_of(case, [site.name for site in cohort.training])
    kept: list[State] = []
    simulate(server_app(plan, lambda server: kept.append(_trained(server))), cohort.training)
    model = build(plan.model, plan.seed)
    model.load_state_dict(kept[0])
    test = cohort[TESTED].everything
    logits = predict(model, test.images, plan.normalisation)
    accuracy = float((logits.argmax(1) == test.labels).float().mean()) if logits.isfinite().all() else CHANCE
    return vars(case) | {"accuracy": accuracy}


def _trained(server: Server) -> State:
    return server.rounds(server.start())


def cases(seeds: int, patients: Sequence[str], **size: Any) -> list[Case]:
    """List every run; where no hospital is hostile, only one attack is run."""
    every = itertools.product(patients, ATTACKS, SHARES, AGGREGATORS, range(seeds))
    first = next(iter(ATTACKS))
    return [Case(*case, **size) for case in every if case[2] > 0 or case[1] == first]


def measured(todo: Sequence[Case], workers: int, out: Path) -> pd.DataFrame:
    """A row a run, written to ``out`` as it is done; those that are there already are not done again."""
    known = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=[*vars(todo[0]), "accuracy"])
    done = {Case(*row[:-1]) for row in known.itertuples(index=False)}
    left = [case for case in todo if case not in done]
    known.to_csv(out, index=False)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for number, row in enumerate(pool.imap(run, left), 1):
            pd.DataFrame([row]).to_csv(out, index=False, header=False, mode="a")
            print(f"{number}/{len(left)}", *row.values(), flush=True)
    return pd.read_csv(out)


def spread(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs without hostile hospitals beside every attack."""
    honest = rows[rows["share"] == 0]
    return pd.concat([rows[rows["share"] > 0], *(honest.assign(attack=attack) for attack in ATTACKS)])


@styled
def figure(rows: pd.DataFrame, width: float = WIDE) -> Figure:
    """A panel for each kind of patients and attack, a line an aggregator; shaded from worst to best seed.

    Panels of one attack have one scale.
    """
    shown, names = spread(rows), [name for name in AGGREGATORS if name in set(rows["aggregator"])]
    look = line_styles(names)
    legend = [Line2D([], [], markersize=4, linewidth=1.4, label=name, **look[name]) for name in names]
    settings = list(itertools.product(shown["patients"].unique(), ATTACKS))
    made, grid = panels(
        width, 2.3, len(settings), describe(rows).title, "hostile hospitals (%)", columns=2, legend=legend
    )
    for axes, (patients, attack) in zip(grid, settings, strict=True):
        here = shown[(shown["patients"] == patients) & (shown["attack"] == attack)]
        for name in names:
            scores = 100 * here[here["aggregator"] == name].groupby("share")["accuracy"].agg(
                ["mean", "min", "max"]
            )
            at = 100 * scores.index.to_numpy()
            axes.plot(at, scores["mean"], markersize=4, linewidth=1.4, **look[name])
            axes.fill_between(
                at, scores["min"], scores["max"], color=look[name]["color"], alpha=0.12, linewidth=0
            )
        axes.set_ylim(100 * shown.loc[shown["attack"] == attack, "accuracy"].min() - 5, 102)
        axes.set_xticks(100 * np.array(sorted(shown["share"].unique())))
        head(axes, f"{patients}, {attack}", width, len(settings), columns=2)
    made.supylabel("accuracy at an unseen site (%)", fontsize=9)
    return made


def describe(rows: pd.DataFrame) -> Caption:
    """Say which aggregators are best and worst at 30 % (or the largest share), over all settings."""
    shown = spread(rows)
    share = min(0.3, shown["share"].max())
    means = shown.pivot_table(index="aggregator", columns="share", values="accuracy", sort=False)
    means = means.sort_index(axis=1)
    order = means[share].sort_values(ascending=False)
    best, worst = order.index[0], order.index[-1]
    title = (
        f"With {percent(share, 0)} of the hospitals hostile {best} has {percent(order.iloc[0])} on average, "
        f"{worst} {percent(order.iloc[-1])}; with none {percent(means[0.0][best])} and "
        f"{percent(means[0.0][worst])}"
    )
    each = [f"{name} {listing([percent(value) for value in row])}" for name, row in means.iterrows()]
    return Caption(title, f"Mean accuracy at {listing([percent(s, 0) for s in means])}: {'; '.join(each)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", nargs="+", default=list(PATIENTS), choices=list(PATIENTS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("robustness.csv"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--draw", type=Path, help="draw an earlier --out instead of measuring")
    args = parser.parse_args()
    if args.draw:
        rows = pd.read_csv(args.draw)
    else:
        rows = measured(cases(args.seeds, args.patients), args.workers, args.out)
    if args.figure:
        args.figure.write_bytes(render(figure(rows), "png"))
    print(describe(rows).text)


if __name__ == "__main__":
    main()
