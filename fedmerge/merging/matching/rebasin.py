"""Git Re-Basin: permute each model's neurons into the first one's order, then average weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.assignment import pair
from fedmerge.merging.matching.hungarian_fusion import Cost
from fedmerge.merging.matching.importances import (
    Attribution,
    Importances,
    Normalisation,
    attribution_needs,
)
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.neurons.maps import Correspondence, matched_average, one_to_one
from fedmerge.merging.neurons.statistics import Statistics
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import running_pairs
from fedmerge.models.graph import permute
from fedmerge.models.state import State
from fedmerge.registry import Needs
from fedmerge.seeding import generator

MAX_SWEEPS = 100


def _needs(options: dict[str, Any]) -> Needs:
    return attribution_needs(options) | Needs(fusion_sums=options["by"] == "activations")


@FUSION.method(
    "rebasin",
    title="Git Re-Basin",
    paper="Git Re-Basin, arXiv 2209.04836",
    needs=Needs(individual_models=True),
    also=_needs,
)
def rebasin(
    parents: Parents,
    context: Context,
    *,
    by: Literal["activations", "weights"] = "activations",
    cost: Cost = "squared",
    attribution: Attribution = "uniform",
    normalisation: Normalisation = "mean1",
) -> Merged:
    """Match every model to the first, neuron by neuron, permute it, and average.

    activations: assignment on D_ij, the distance of ``relu a_i`` and ``relu b_j`` of pre-activations over the
    fusion images, with importances s:

        squared:  2 s_i s_j / (s_i + s_j) D_ij^2     (the paper: without s, the largest sum of <a_i, b_j>)
        l2:       2 s_i s_j / (s_i + s_j) D_ij       (the program of Neuron Interpolation, arXiv 2507.00037)

    Neurons that several layers write (residual streams) share one permutation, found from the sum over those
    layers (of D^2). Weights are averaged by importance, neuron by neuron, and class by class in the output
    layer. weights: no images; coordinate descent on ``sum <W_a, P W_b P'^T>`` over all tensors, one group of
    neurons at a time in a random order, until none changes.

    The paper has two models; for more, each is matched to the first, as its program MergeMany does in turn.
    The models' own activations decide, not the fused model's. Batch-norm statistics are permuted along and
    merged by the run's policy; ``after: batch-norm`` or ``repair`` is advised, as the paper does.
    """
    if by == "weights" and (attribution != "uniform" or cost != "squared"):
        raise FedMergeError(
            "rebasin by weights has no activations to attribute or to compare: leave attribution at uniform "
            "and cost at squared."
        )
    networks = Networks.of(parents, context)
    sizes = [networks.sizes(group) for group in range(len(networks.neurons.groups))]
    if any(len(set(size)) > 1 for size in sizes):
        raise FedMergeError("rebasin permutes neurons, so all models must have the same widths; use kf.")
    share = tuple(1 / len(parents) for _ in parents.names)
    maps = Correspondence(networks.neurons, networks.parents, share)
    if by == "activations":
        statistics = networks.statistics(context)
        importances = Importances(networks, statistics, attribution, normalisation)
        maps.channels = importances.shares()
        scores = [importances.neurons(g).view(len(parents), -1) for g in range(len(sizes))]
        found = _by_activations(networks, statistics, scores, cost)
    else:
        scores = [torch.ones(len(parents), form.size).double() for form in networks.neurons.groups]
        found = _by_weights(networks, context.seed)
    for group, permutations in enumerate(found):
        weights = torch.stack([s[p] for s, p in zip(scores[group], permutations, strict=True)])
        maps.groups[group] = one_to_one(permutations, weights)
    inputs = {layer.weight for layer in networks.layers if not layer.depthwise}
    state = matched_average(networks.states, networks.like, maps, inputs, context.batch_norm)
    return Merged(parents.module(state), uniform(parents), _log(networks, found), correspondence=maps)


def _by_activations(
    networks: Networks, statistics: Statistics, scores: list[Tensor], cost: Cost
) -> list[list[Tensor]]:
    """Per group, each model's permutation into the order of the first. scores: per group, M x n."""
    names = [layer.name for layer in networks.layers if networks.groups_of(layer)]
    sums = statistics.ask("outer", {"layers": names, "activation": "relu"}, {})
    found = []
    for group, form in enumerate(networks.neurons.groups):
        tables = [networks.table(group, w, sums[w.name].cpu()) for w in networks.writers(group)]
        table = torch.stack(tables).sum(0)
        score = scores[group]
        square = table.diagonal().split(form.size)
        permutations = [torch.arange(form.size)]
        for m in range(1, len(networks)):
            inner = table[: form.size, m * form.size : (m + 1) * form.size]
            gap = (square[0][:, None] + square[m][None, :] - 2 * inner).clamp(min=0)
            mass = score[0][:, None] * score[m][None, :] / (score[0][:, None] + score[m][None, :])
            permutations.append(pair(2 * mass * (gap if cost == "squared" else gap.sqrt()), form))
        found.append(permutations)
    return found


def _by_weights(networks: Networks, seed: int) -> list[list[Tensor]]:
    groups = networks.neurons.groups
    found = [[torch.arange(form.size)] for form in groups]
    first = _wide(networks.states[0])
    for m in range(1, len(networks)):
        rng = generator(seed, "re-basin by weights", m)
        other = _wide(networks.states[m])
        current = {group: torch.arange(form.size) for group, form in enumerate(groups)}
        for _ in range(MAX_SWEEPS):
            changed = False
            for group in torch.randperm(len(groups), generator=rng).tolist():
                rest = {g: p for g, p in current.items() if g != group}
                likeness = _likeness(networks, group, first, permute(other, networks.neurons, rest))
                best = pair(-likeness, groups[group])
                index = torch.arange(len(best))
                gain = (likeness[index, best] - likeness[index, current[group]]).sum()
                if bool(gain > 1e-9 * likeness.abs().max()):
                    current[group], changed = best, True
            if not changed:
                break
        for group in range(len(groups)):
            found[group].append(current[group])
    return found


def _likeness(networks: Networks, group: int, first: State, other: State) -> Tensor:
    """n x n: the inner product, over all weights, of neuron i of ``first`` and neuron j of ``other``."""
    size = networks.neurons.groups[group].size
    statistics = {key for both in running_pairs(networks.like) for key in both}
    total = torch.zeros(size, size, dtype=torch.float64)
    for key, value in first.items():
        axes = {} if key in statistics else networks.neurons.axes.get(key, {})
        for dim, parts in axes.items():
            for part in parts:
                if part.group != group:
                    continue
                ours, theirs = (
                    v.movedim(dim, 0)[part.positions].reshape(len(part.neurons), -1)
                    for v in (value, other[key])
                )
                total[part.neurons[:, None], part.neurons[None, :]] += ours @ theirs.T
    return total


def _wide(state: State) -> State:
    return {key: v.detach().cpu().double() for key, v in state.items() if v.is_floating_point()}


def _log(networks: Networks, found: list[list[Tensor]]) -> list[dict[str, Any]]:
    log = []
    for form, permutations in zip(networks.neurons.groups, found, strict=True):
        stays = [(p == torch.arange(form.size)).double().mean() for p in permutations[1:]]
        moved = 1 - float(torch.stack(stays).mean()) if stays else 0.0
        log.append({"layer": form.name, "neurons": form.size, "moved": moved})
    return log
