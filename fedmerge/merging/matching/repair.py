"""Corrections after any merge: batch-norm statistics measured anew, or every channel rescaled (REPAIR)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.neurons.maps import Correspondence, one_to_one
from fedmerge.merging.neurons.statistics import Statistics, Sums, norms
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import entries
from fedmerge.models.graph import Layer
from fedmerge.models.state import State

After = Literal["none", "repair", "batch-norm"]


def corrected(merged: Merged, after: str, parents: Parents, context: Context) -> Merged:
    """Correct the merged model as ``after`` says; refuse an ensemble, and a missing fusion set."""
    if after == "none":
        return merged
    if after not in ("repair", "batch-norm"):
        raise FedMergeError(f"unknown after '{after}'. Allowed: none, repair, batch-norm.")
    if merged.forward_passes != 1:
        raise FedMergeError(f"after: {after} changes the weights of one network, but an ensemble is several.")
    if context.data is None and context.statistics is None:
        raise FedMergeError(f"after: {after} measures activations: pass data=, a few hundred fusion images.")
    networks = Networks.of(parents, context)
    statistics = networks.statistics(context)
    state = {key: value.clone() for key, value in entries(merged.model).items()}
    if after == "batch-norm":
        state, log = reestimated(networks, statistics, state)
    else:
        maps = merged.correspondence or in_place(networks, list(merged.coefficients.values()))
        state, log = repaired(networks, statistics, state, maps)
    return replace(merged, model=parents.module(state), decisions=[*merged.decisions, *log], fitted=True)


def reestimated(
    networks: Networks, statistics: Statistics, state: State
) -> tuple[State, list[dict[str, Any]]]:
    """Set each batch norm's running mean and variance to those of its inputs over all fusion images.

    One batch norm after the other, each with those before it already set; the variance is unbiased. This is
    what forward passes in training mode with a cumulative average approach, without their dependence on the
    batches.
    """
    statistics.ask("walk", {}, state)
    changed: State = {}
    found = norms(networks.fused)
    for index, node in enumerate(found):
        sums = statistics.ask("norm-moments", {"index": index}, changed)
        rows = float(sums["rows"])
        mean, var = _mean_and_variance(sums["moments"], rows)
        keys = [networks.fused.keys[given.name] for given in node.args[3:5] if isinstance(given, Node)]
        new = dict(zip(keys, (mean, var * rows / max(rows - 1, 1)), strict=True))
        changed = {key: value.to(state[key].dtype).to(state[key].device) for key, value in new.items()}
        state |= changed
    return state, [{"after": "batch-norm", "norms": len(found)}]


def repaired(
    networks: Networks, statistics: Statistics, state: State, maps: Correspondence
) -> tuple[State, list[dict[str, Any]]]:
    """Give every channel's pre-activation the mean and deviation that its parents' have, layer by layer.

    z' = (z - mu_F) sd' / sd_F + mu', where mu' and sd' are the weighted means of the matched parents'
    (REPAIR, arXiv 2211.08403). A layer without bias and batch norm is rescaled but not shifted. Depends on
    the fusion images only through means and variances of channels. The authors' notebooks rescale hidden
    layers alone; here the output layer is one like the others. Where there are batch norms they measure
    these anew and rescale nothing, which is ``after: batch-norm``.
    """
    parents = statistics.ask("moments", {}, {})
    statistics.ask("walk", {}, state)
    changed: State = {}
    scales = []
    for layer in networks.layers:
        sums = statistics.ask("fused-moments", {"name": layer.name}, changed)
        mean, var = _mean_and_variance(sums["moments"], float(sums["rows"]))
        target, deviation = _goal(networks, parents, layer, maps)
        alive = var.sqrt() > 1e-8 * deviation
        ratio = torch.where(alive, deviation / var.sqrt().clamp(min=torch.finfo(var.dtype).tiny), 1.0)
        changed = _rescaled(state, layer, ratio, target - mean * ratio)
        state |= changed
        scales.append({"after": "repair", "layer": layer.name, "median_scale": float(ratio.median())})
    return state, scales


def _rescaled(state: State, layer: Layer, ratio: Tensor, shift: Tensor) -> State:
    """The entries that turn a layer's pre-activation z into ``ratio z + shift``."""
    norm = layer.norm
    scale_key = norm.weight if norm is not None and norm.weight else layer.weight
    bias_key = norm.bias if norm is not None and norm.weight else layer.bias
    value = state[scale_key].to(torch.float64)
    new = {scale_key: value * ratio.to(value).reshape(-1, *[1] * (value.ndim - 1))}
    if norm is not None and norm.weight is None:  # W moves what the statistics subtract, so they move with it
        sd = (state[norm.var].to(torch.float64) + norm.eps).sqrt()
        mean = state[norm.mean].to(torch.float64)
        new[norm.mean] = mean * ratio.to(mean) - shift.to(mean) * sd
    elif bias_key is not None:
        bias = state[bias_key].to(torch.float64)
        new[bias_key] = bias * ratio.to(bias) + shift.to(bias)
    return {key: value.to(state[key].dtype) for key, value in new.items()}


def _goal(networks: Networks, parents: Sums, layer: Layer, maps: Correspondence) -> tuple[Tensor, Tensor]:
    """Weighted means of the matched parents' channel means and standard deviations."""
    rows = float(parents[f"rows/{layer.name}"])
    size = networks.like[layer.weight].shape[0]
    mean = torch.zeros(size, dtype=torch.float64)
    deviation = torch.zeros(size, dtype=torch.float64)
    for m, table in enumerate(maps.out(layer.weight, 0, networks.channels(layer), size)):
        own, var = _mean_and_variance(parents[f"{m}/{layer.name}"].cpu(), rows)
        mean += table @ own
        deviation += table @ var.sqrt()
    return mean, deviation


def _mean_and_variance(moments: Tensor, rows: float) -> tuple[Tensor, Tensor]:
    mean = moments[0].cpu() / rows
    return mean, (moments[1].cpu() / rows - mean.square()).clamp(min=0)


def in_place(networks: Networks, weights: list[float]) -> Correspondence:
    """Every neuron stands for the parents' neurons in its own place, with the merge's coefficients."""
    total = sum(weights)
    maps = Correspondence(networks.neurons, networks.parents, tuple(w / total for w in weights))
    for group, form in enumerate(networks.neurons.groups):
        order = [torch.arange(form.size) for _ in weights]
        share = torch.tensor(weights, dtype=torch.float64)[:, None].expand(-1, form.size)
        maps.groups[group] = one_to_one(order, share)
    return maps
