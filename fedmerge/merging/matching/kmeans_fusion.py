"""K-means fusion, linear (KF): cluster the parents' neurons, then fit each layer to the clusters' means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedmerge.merging.matching.hungarian_fusion import match_one_to_one
from fedmerge.merging.matching.importances import Attribution, Normalisation, attribution_needs
from fedmerge.merging.matching.linear import Fit, fuse_layers
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.neurons.kmeans import Cost, Starts, kmeans
from fedmerge.merging.neurons.maps import Maps, clustered
from fedmerge.merging.parents import Parents
from fedmerge.registry import Needs
from fedmerge.schema.option_groups import flat
from fedmerge.seeding import generator


@FUSION.method(
    "kf",
    title="K-means fusion",
    paper="Model Fusion via Neuron Interpolation, arXiv 2507.00037",
    needs=Needs(individual_models=True, fusion_sums=True),
    also=attribution_needs,
    any_width=True,
)
@flat
def kmeans_fusion(
    parents: Parents,
    context: Context,
    *,
    attribution: Attribution = "uniform",
    normalisation: Normalisation = "mean1",
    cost: Cost = "l2",
    tries: int = 10,
    fit: Fit,
) -> Merged:
    """Cluster the neurons of any number of models, layer by layer, and fit each layer to the clusters' means.

    As many clusters as the fused model has neurons; its architecture is that of the first model, or of the
    ``into=`` given to ``merge``, and parents may have other widths. Clustering is ``kmeans`` (farthest-first
    start at a neuron of model 0, ``tries`` draws, weighted Lloyd steps), on pre-activations as far as the
    fused layer can express them. Outputs keep the order of the classes.

    Where several layers write the same neurons (residual streams) or a convolution is depthwise, the clusters
    come from the sum over those layers of the parents' own pre-activations. Neurons that may only move in
    blocks (heads of attention, groups of group norm) are paired one to one, as in ``hf``, because a cluster
    could hold neurons of several blocks. Other options, and the output layer, whose row c is the mean of the
    parents' by importance: see ``hf``.

    The authors' program is ``solver: pinv, towards: zero, normalisation: none``; it may stop before empty
    clusters are filled, and leave neurons zero.
    """

    def match(
        networks: Networks, group: int, outer: Tensor, projected: Tensor, scores: Tensor
    ) -> tuple[Maps, dict[str, Any]]:
        form = networks.neurons.groups[group]
        if form.block is not None:
            return match_one_to_one(networks, group, outer, projected, scores)
        found = kmeans(
            outer,
            projected,
            scores,
            form.size,
            rng=generator(context.seed, f"k-means of {form.name}"),
            starts=Starts(tries, first=min(form.size, networks.sizes(group)[0])),
            cost=cost,
        )
        sizes = networks.sizes(group)
        largest = int(torch.bincount(found.assignment).max())
        maps = clustered(found.assignment, scores, form.size, sizes)
        return maps, {"cost": found.cost, "steps": found.steps, "largest_cluster": largest}

    return fuse_layers(parents, context, match, fit, attribution, normalisation)
