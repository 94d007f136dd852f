"""Hungarian fusion (HF): pair the parents' neurons one to one, then fit each layer to the pairs' means."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.assignment import pair
from fedmerge.merging.matching.importances import Attribution, Normalisation, attribution_needs
from fedmerge.merging.matching.linear import Fit, fuse_layers
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.neurons.maps import Maps, one_to_one
from fedmerge.merging.parents import Parents
from fedmerge.models.graph import Group
from fedmerge.registry import Needs
from fedmerge.schema.option_groups import flat

Cost = Literal["squared", "l2"]
MAX_SWEEPS = 50


@FUSION.method(
    "hf",
    title="Hungarian fusion",
    paper="Model Fusion via Neuron Interpolation, arXiv 2507.00037",
    needs=Needs(individual_models=True, fusion_sums=True),
    also=attribution_needs,
)
@flat
def hungarian_fusion(
    parents: Parents,
    context: Context,
    *,
    attribution: Attribution = "uniform",
    normalisation: Normalisation = "mean1",
    cost: Cost = "squared",
    fit: Fit,
) -> Merged:
    """Pair neurons by linear assignment, layer by layer, and fit each layer to the pairs' weighted means.

    With X the fused layer's input, P = X X^+ the projection onto what the layer can express, a_i and b_j the
    parents' pre-activations, D_ij = |P a_i - P b_j|, r_i = |a_i - P a_i|^2, and importances s, the cost of
    pairing is

        squared:  s_i s_j / (s_i + s_j) D_ij^2                                   (theorem 2a of the paper)
        l2:       s_i sqrt(r_i + (s_j/(s_i+s_j))^2 D_ij^2) + the same for j      (the authors' program)

    The paper has two models. For more, each model in turn is paired with the means of the others until
    nothing changes (at most 50 sweeps); each step is optimal given the rest, so the cost falls. This
    extension is ours; it needs ``squared``. All models must be of one width; neuron i keeps model 0's place.
    Channels that nothing can move, the classes of the output layer, are paired with themselves; row c of the
    fused layer is the mean of the parents' by importance, ``sum_m s_mc w_mc / sum_m s_mc``, as in any other.

    Where several layers write the same neurons (residual streams) or a convolution is depthwise, one pairing
    is made from the sum over those layers of the parents' own pre-activations. Batch norm that follows a
    layer is folded into it. solver, ridge: see ``solve``. towards: what the ridge pulls a layer to, zero (as
    in the paper) or the paired average of the parents (ours). refit: False averages the paired weights
    without a fit.

    The authors' program is ``cost: l2, solver: pinv, towards: zero, normalisation: none``.
    """
    if cost == "l2" and len(parents) > 2:
        raise FedMergeError(
            f"hf with cost l2 takes two models, not {len(parents)}: use cost: squared for more."
        )

    def match(
        networks: Networks, group: int, outer: Tensor, projected: Tensor, scores: Tensor
    ) -> tuple[Maps, dict[str, Any]]:
        return match_one_to_one(networks, group, outer, projected, scores, cost)

    return fuse_layers(parents, context, match, fit, attribution, normalisation)


def match_one_to_one(
    networks: Networks, group: int, outer: Tensor, projected: Tensor, scores: Tensor, cost: Cost = "squared"
) -> tuple[Maps, dict[str, Any]]:
    """The maps of the best one-to-one pairing of a group's neurons over all parents."""
    form, sizes = networks.neurons.groups[group], networks.sizes(group)
    if set(sizes) != {form.size}:
        raise FedMergeError(
            f"the models have {', '.join(map(str, sizes))} neurons in '{form.name}', the model to be made "
            f"{form.size}: they cannot be paired one to one; use kf, which takes different widths."
        )
    if cost == "l2":
        table = reference_cost(outer, projected, scores)
        permutations, sweeps = [torch.arange(form.size), pair(table, form)], 1
    else:
        permutations, sweeps = pair_all(projected, scores, len(sizes), form)
    maps = one_to_one(permutations, torch.stack([s[p] for s, p in _split(scores.cpu(), permutations)]))
    return maps, {"sweeps": sweeps, "moved": _moved(permutations)}


def reference_cost(outer: Tensor, projected: Tensor, scores: Tensor) -> Tensor:
    """Cost ``l2`` (see ``hf``), of the authors' program, for two models: n x n.

    outer, projected: 2n x 2n, the inner products of pre-activations, whole and projected. scores: 2n.
    """
    n = len(scores) // 2
    own, expressed = outer.diagonal(), projected.diagonal()
    residual = (own - expressed).clamp(min=0)
    gap = (expressed[:n, None] + expressed[None, n:] - 2 * projected[:n, n:]).clamp(min=0)
    left, right = scores[:n, None], scores[None, n:]
    to_left = (residual[:n, None] + (right / (left + right)).square() * gap).sqrt()
    to_right = (residual[None, n:] + (left / (left + right)).square() * gap).sqrt()
    return left * to_left + right * to_right


def pair_all(projected: Tensor, scores: Tensor, models: int, form: Group) -> tuple[list[Tensor], int]:
    """For each model the neurons in the places of model 0's, and the sweeps it took.

    Coordinate descent on ``sum_k sum_m s_m,k |z_m,k - mean_k|^2``: a model is taken out, and paired with the
    means of the others by ``s S/(s + S) |z - mean|^2``. Two models are paired once.
    """
    n = form.size
    starts = [torch.arange(n) + m * n for m in range(models)]
    places = [start.clone() for start in starts[:1]]  # model 0 holds the places; the others join one by one
    table, weight = projected.cpu(), scores.cpu()
    for m in range(1, models):
        places.append(_paired(table, weight, places, starts[m], form))
    sweeps = 1
    for sweeps in range(2, MAX_SWEEPS + 1 if models > 2 else 2):  # noqa: B007
        before = [place.clone() for place in places]
        for m in range(1, models):
            others = places[:m] + places[m + 1 :]
            places[m] = _paired(table, weight, others, starts[m], form)
        if all(bool((a == b).all()) for a, b in zip(before, places, strict=True)):
            break
    return [place - start[0] for place, start in zip(places, starts, strict=True)], sweeps


def _paired(table: Tensor, scores: Tensor, others: list[Tensor], own: Tensor, form: Group) -> Tensor:
    """The neurons ``own`` in the order that fits the weighted means of ``others`` best."""
    weights = torch.stack([scores[place] for place in others])
    total = weights.sum(0)
    share = weights / total
    means = sum(share[a][:, None] * table[place] for a, place in enumerate(others))
    assert isinstance(means, Tensor)
    length = sum(share[a] * means[torch.arange(len(own)), place] for a, place in enumerate(others))
    assert isinstance(length, Tensor)
    gap = length[:, None] + table.diagonal()[own][None, :] - 2 * means[:, own]
    mass = scores[own][None, :] * total[:, None] / (scores[own][None, :] + total[:, None])
    return own[pair(mass * gap, form)]


def _split(scores: Tensor, permutations: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    n = len(permutations[0])
    return [(scores[m * n : (m + 1) * n], p) for m, p in enumerate(permutations)]


def _moved(permutations: list[Tensor]) -> float:
    """The part of all neurons that do not stay in their own place."""
    moved = [(p != torch.arange(len(p))).double().mean() for p in permutations[1:]]
    return float(torch.stack(moved).mean()) if moved else 0.0
