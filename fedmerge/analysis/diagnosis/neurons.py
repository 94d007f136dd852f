"""Neurons: what matching them costs, layer by layer, and where importance lies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject, answers, score
from fedmerge.analysis.diagnosis.words import share
from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, Context, Merged, Parents
from fedmerge.merging.attribution import importance
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.matching.repair import in_place
from fedmerge.merging.neurons.sums import rows
from fedmerge.models.entries import entries
from fedmerge.models.graph import Run
from fedmerge.registry import Needs

PAPER = "Model Fusion via Neuron Interpolation, arXiv 2507.00037"
PLACE = "mean"
"""The method whose neurons stay where they are."""
BATCH = 64


@ANALYSES.method(
    "neurons",
    title="What matching neurons costs",
    paper=PAPER,
    needs=Needs(individual_models=True, fusion_images=True),
)
def neurons(
    subject: Subject,
    *,
    methods: tuple[str, ...] = (PLACE, "rebasin", "hf", "kf"),
    attribution: Literal["none", "conductance", "deeplift"] = "none",
) -> Finding:
    """Split the error of fusion methods into that of grouping neurons and that of fitting the groups.

    z_j: pre-activations of the parents' neurons on the images, k_j: the fused neuron that j belongs to, T_k
    the mean of group k and f_k what the fused model computes (its own earlier layers before it):

        sum_j |f_{k_j} - z_j|^2 = sum_j |T_{k_j} - z_j|^2 + sum_j |f_{k_j} - T_{k_j}|^2          (C.2)
                                      grouping                 approximation

    both over sum_j |z_j|^2, with importances of one. The images must not be those of the parents' training to
    say more than that.

    Tables: ``neurons`` (method, layer, depth, grouping, approximation); ``methods`` (method, seconds of the
    fusion, both errors over all layers, agreement with the logit ensemble's classes, and accuracy where there
    are labels); with ``attribution`` also ``importance``: model, layer, and the share of a layer's importance
    that its most important tenth of neurons has. Models of other widths go through ``hf`` and ``kf``; a
    method that refuses the models has no row.
    """
    labels = None if subject.labels is None else subject.classes
    parents = Parents.of(list(subject.models.values()), subject.names, any_width=True)
    context = Context(
        example=subject.pictures[:2], data=subject.pictures, labels=labels, seed=subject.seed,
        device=str(subject.device),
    )  # fmt: skip
    networks = Networks.of(parents, context)
    together = torch.stack([answers(m, subject.pictures) for m in subject.models.values()]).mean(0).argmax(1)
    layers, summary = [], []
    for method in methods:
        began = time.perf_counter()
        try:
            merged = FUSION[method].call(parents, context)
        except FedMergeError:
            continue
        seconds = time.perf_counter() - began
        found = list(errors(networks, merged, subject.pictures))
        layers += [{"method": method} | {k: v for k, v in row.items() if k != "size"} for row in found]
        summary.append(
            {"method": method, "seconds": seconds} | _total(found) | _right(subject, merged.model, together)
        )
    if not layers:
        raise FedMergeError(f"none of {', '.join(methods)} can fuse these models: see fedmerge merge.")
    tables = {"neurons": pd.DataFrame(layers), "methods": pd.DataFrame(summary)}
    if attribution != "none":
        tables["importance"] = _importance(subject, networks, attribution)
    return Finding(tables, *_said(tables["methods"]))


@torch.no_grad()
def errors(networks: Networks, merged: Merged, images: Tensor) -> Iterator[dict[str, Any]]:
    """Yield each layer's grouping and approximation error, and the size that both are relative to."""
    maps = merged.correspondence or in_place(networks, list(merged.coefficients.values()))
    device = images.device
    values = [p.values(s, device) for p, s in zip(networks.programs, networks.states, strict=True)]
    own = networks.fused.values(entries(merged.model), device)
    sums = {layer.name: torch.zeros(3, dtype=torch.float64) for layer in networks.layers}
    for x in images.split(BATCH):
        runs = [Run(p, v, x) for p, v in zip(networks.programs, values, strict=True)]
        fused = Run(networks.fused, own, x)
        for place, layer in enumerate(networks.layers):
            z = [rows(r.until(r.program.layers[place].output), r.program.layers[place]) for r in runs]
            f = rows(fused.until(layer.output), layer)
            widths = [each.shape[1] for each in z]
            out = maps.out(layer.weight, 0, widths, f.shape[1])
            into = maps.into(layer.weight, 0, widths, f.shape[1])
            targets = torch.stack([each @ table.T.to(each) for each, table in zip(z, out, strict=True)]).sum(
                0
            )
            for each, table in zip(z, into, strict=True):
                mine = table.T.to(each)
                sums[layer.name] += torch.stack([
                    (targets @ mine - each).square().sum(), ((f - targets) @ mine).square().sum(),
                    each.square().sum(),
                ]).cpu()  # fmt: skip
    for depth, layer in enumerate(networks.layers):
        grouping, fit, size = sums[layer.name].tolist()
        yield {
            "layer": layer.name, "depth": depth, "size": size,
            "grouping": grouping / max(size, 1e-300), "approximation": fit / max(size, 1e-300),
        }  # fmt: skip


def _total(found: list[dict[str, Any]]) -> dict[str, float]:
    """The mean over layers, each with the same say."""
    return {name: sum(row[name] for row in found) / len(found) for name in ("grouping", "approximation")}


def _right(subject: Subject, model: nn.Module, together: Tensor) -> dict[str, float]:
    logits = answers(model.to(subject.device), subject.pictures)
    agreement = (logits.argmax(1) == together).double().mean().item()
    accuracy = torch.nan if subject.labels is None else score(logits, subject.classes).accuracy
    return {"agreement": agreement, "accuracy": accuracy}


def _importance(
    subject: Subject, networks: Networks, kind: Literal["conductance", "deeplift"]
) -> pd.DataFrame:
    table = []
    for name, program, state in zip(subject.names, networks.programs, networks.states, strict=True):
        found = importance(program, state, subject.pictures, subject.classes, kind, device=subject.device)
        table += [
            {"model": name, "layer": layer, "top_tenth": _top(scores)} for layer, scores in found.items()
        ]
    return pd.DataFrame(table)


def _top(scores: Tensor) -> float:
    """The share of the sum that the largest tenth (at least one) has; scores below zero count as they are."""
    ordered = scores.abs().sort(descending=True).values
    return float(ordered[: max(1, len(ordered) // 10)].sum() / ordered.sum().clamp(min=1e-300))


def _said(frame: pd.DataFrame) -> tuple[str, float]:
    best = frame.iloc[int(frame["agreement"].argmax())]
    text = (
        f"{best['method']} agrees with the ensemble on {share(best['agreement'])} of the images; of its "
        f"parents' pre-activations grouping leaves {share(best['grouping'])} unexplained, fitting "
        f"{share(best['approximation'])}"
    )
    if max(best["grouping"], best["approximation"]) < 0.005:
        return f"{text}: the neurons match, and the fit is exact.", float(best["grouping"])
    worse = "grouping" if best["grouping"] > best["approximation"] else "approximation"
    if worse == "grouping":
        return f"{text}: the models' neurons differ, more than the fit is at fault.", float(best["grouping"])
    return f"{text}: the neurons match, the layers before them do not give the inputs for it.", float(
        best["grouping"]
    )
