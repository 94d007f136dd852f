"""What fusion costs in messages and bytes where images stay in the hospitals, and that it is the same fusion.

Four hospitals with 32 digits each (28 px) and one network each, with weights that were never trained: bytes
and exchanges depend on neither images nor training. Every method fuses twice: from sums of the hospitals, and
from their pooled images here; `difference` is how far the outputs of the two lie apart, over the largest.
RegMean and KF by conductance have none, because hospitals answer for their own model alone. Run
`python -m benchmarks.simulations.federated_fusion --out benchmarks/results/federated-fusion.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort, concat
from fedmerge.data.cohort.fusion import share
from fedmerge.federation import FederationPlan, Server, server_app, simulate
from fedmerge.merging import merge
from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.training import TrainingOptions

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "hf": ("hf", {}),
    "kf": ("kf", {}),
    "kf, conductance": ("kf", {"attribution": "conductance"}),
    "rebasin": ("rebasin", {}),
    "ot": ("ot", {}),
    "regmean": ("regmean", {}),
    "mean, repair": ("mean", {"after": "repair"}),
}
NETWORKS = {"small-cnn": tuple(METHODS), "vgg11": ("hf", "regmean", "mean, repair")}  # kf sends what hf sends
OWN = ("kf, conductance", "regmean")
SIZE = 28


def plan_of(network: str) -> FederationPlan:
    options = TrainingOptions(lr=0.05)
    return FederationPlan(
        model=ModelSpec(name=network, in_channels=1, n_classes=10, image_size=SIZE),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=0,
        local=options,
        fine_tune=options,
    )


def cohort_of(hospitals: int) -> Cohort:
    sites = tuple(SiteSpec(name=f"hospital-{i}") for i in range(hospitals))
    return build_cohort(CohortSpec(name="digits", source="digits", size=SIZE, sites=sites), seed=0)


def models_of(plan: FederationPlan, cohort: Cohort) -> list[nn.Module]:
    """One network a hospital, with batch-norm statistics of its images."""
    models = []
    for seed, site in enumerate(cohort.sites):
        model = build(plan.model, seed).train()
        with torch.no_grad():
            for batch in plan.normalisation(site.train.images[:96]).split(32):
                model(batch)
        models.append(model.eval())
    return models


def measure(plan: FederationPlan, cohort: Cohort, label: str, images: int) -> dict[str, Any]:
    """One method with one network: traffic of the hospital with the most, seconds, and the difference."""
    method, options = METHODS[label]
    names, models = [site.name for site in cohort.sites], models_of(plan, cohort)
    pooled = concat([share(site, images, "train", plan.seed) for site in cohort.sites])
    data = plan.normalisation(pooled.images)
    found: dict[str, Any] = {}

    def programme(server: Server) -> None:
        states = {name: model.state_dict() for name, model in zip(names, models, strict=True)}
        sums = server.statistics(states, dict.fromkeys(names, images), "train")
        began = time.perf_counter()
        found["model"] = merge(
            models, method, names=names, data=torch.zeros_like(data[:2]), statistics=sums, **options
        ).model
        found["seconds"] = time.perf_counter() - began
        found["traffic"] = sums.traffic

    simulate(server_app(plan, programme), cohort.sites)
    most = max(found["traffic"], key=lambda row: row["bytes_down"] + row["bytes_up"])
    row = {
        "network": plan.model.name,
        "method": label,
        "model_MB": megabytes(sum(v.numel() * v.element_size() for v in models[0].state_dict().values())),
        "exchanges": most["exchanges"],
        "down_MB": megabytes(most["bytes_down"]),
        "up_MB": megabytes(most["bytes_up"]),
        "seconds": round(found["seconds"], 1),
    }
    if label not in OWN:
        local = merge(models, method, names=names, data=data, **options).model
        with torch.no_grad():
            expected, given = local(data), found["model"](data)
        row["difference"] = float(f"{float((given - expected).abs().max() / expected.abs().max()):.1e}")
    return row


def megabytes(count: int) -> float:
    return round(count / 1e6, 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--images", type=int, default=32, help="images of each hospital")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    cohort = cohort_of(args.hospitals)
    rows = []
    for network in args.networks:
        for label in NETWORKS[network]:
            rows.append(measure(plan_of(network), cohort, label, args.images))
            print(json.dumps(rows[-1]), flush=True)
    result = {"hospitals": args.hospitals, "images": args.images, "size": SIZE, "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
