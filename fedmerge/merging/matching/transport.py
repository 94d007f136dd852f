"""OT fusion: align each model's neurons to the first one's by optimal transport, softly, and average."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.importances import (
    Attribution,
    Importances,
    Normalisation,
    attribution_needs,
)
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.neurons.maps import Correspondence, Maps, matched_average
from fedmerge.merging.parents import Parents
from fedmerge.models.graph import Group
from fedmerge.registry import Needs


@FUSION.method(
    "ot",
    title="OT fusion",
    paper="Model Fusion via Optimal Transport, arXiv 1910.05653",
    needs=Needs(individual_models=True, fusion_sums=True),
    also=attribution_needs,
    any_width=True,
)
def ot_fusion(
    parents: Parents,
    context: Context,
    *,
    attribution: Attribution = "uniform",
    normalisation: Normalisation = "mean1",
    marginal: Literal["target", "source"] = "target",
) -> Merged:
    """Transport every model's neurons onto those of the target, the model to be made, and average.

    With mu, nu the importances of a model's and the target's neurons (each normalised to sum to one), and the
    distances of pre-activations over the fusion images as the cost, T is the exact optimal transport plan
    (the package POT). With T' the plan of the layer before, a layer's weights become

        W <- diag(1/nu) T^T  W  T' diag(1/nu')        (marginal: target)

    and the fused layer is the mean over all models, the first one among them, which is its own image. The
    authors of Neuron Interpolation divide by mu on the left instead (``marginal: source``); for equal
    marginals the two agree. Importance acts on the plans alone: in the mean all models count alike, as in
    the programs of both papers. Models may have other widths than the target. Neurons that several layers
    write (residual streams) share one plan, from the sum over those layers of squared distances. Blocks
    (heads of attention, groups of group norm) are not kept apart by a soft plan: such networks are refused.
    """
    networks = Networks.of(parents, context)
    for form in networks.neurons.groups:
        if form.block is not None:
            raise FedMergeError(
                f"the neurons of '{form.name}' move in blocks (heads of attention, or groups of group norm), "
                "which a soft transport plan would tear apart: use rebasin, hf or kf."
            )
    statistics = networks.statistics(context)
    importances = Importances(networks, statistics, attribution, normalisation)
    names = [layer.name for layer in networks.layers if networks.groups_of(layer)]
    sums = statistics.ask("outer", {"layers": names, "activation": "none"}, {})
    share = tuple(1 / len(parents) for _ in parents.names)
    maps = Correspondence(networks.neurons, networks.parents, share)
    log: list[dict[str, Any]] = []
    for group, form in enumerate(networks.neurons.groups):
        tables = [networks.table(group, w, sums[w.name].cpu()) for w in networks.writers(group)]
        scores = importances.neurons(group).split(networks.sizes(group))
        maps.groups[group], cost = _transported(
            torch.stack(tables).sum(0), list(scores), form, networks.sizes(group), marginal
        )
        log.append({"layer": form.name, "neurons": form.size, "transport_cost": cost})
    inputs = {layer.weight for layer in networks.layers if not layer.depthwise}
    state = matched_average(networks.states, networks.like, maps, inputs, context.batch_norm)
    return Merged(parents.module(state), uniform(parents), log, correspondence=maps)


def _transported(
    table: Tensor, scores: list[Tensor], form: Group, sizes: list[int], marginal: str
) -> tuple[Maps, float]:
    """Maps of one group: the target is the first model, or its first neurons where it is narrower."""
    if sizes[0] != form.size:
        raise FedMergeError(
            f"ot aligns to the first model, which has {sizes[0]} neurons in '{form.name}', but the model to "
            f"be made has {form.size}: put a model of its widths first."
        )
    count = len(sizes)
    nu = scores[0] / scores[0].sum()
    square = table.diagonal()
    out, into = (
        [torch.eye(form.size, dtype=torch.float64) / count],
        [torch.eye(form.size, dtype=torch.float64)],
    )
    total = 0.0
    for m in range(1, count):
        place = slice(sum(sizes[:m]), sum(sizes[: m + 1]))
        mu = scores[m] / scores[m].sum()
        cost = (square[place][:, None] + square[: form.size][None, :] - 2 * table[place, : form.size]).clamp(
            min=0
        )
        plan = _plan(mu, nu, cost.sqrt())
        total += float((plan * cost.sqrt()).sum())
        back = (plan / nu).T if marginal == "target" else (plan / mu[:, None]).T
        out.append(back / count)
        into.append(plan / nu)
    return Maps(tuple(out), tuple(into)), total


def _plan(mu: Tensor, nu: Tensor, cost: Tensor) -> Tensor:
    """The exact optimal transport plan, n_m x n."""
    import ot  # takes a second, so only where it is used

    plan = ot.emd(mu.numpy(), nu.numpy(), cost.numpy(), numItermax=10_000_000)
    return torch.from_numpy(plan)
