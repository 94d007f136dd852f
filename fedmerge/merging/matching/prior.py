"""The matched average of the parents' own layers, towards which the fit of a fused layer may be pulled."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.merging.matching.affine import as_columns, effective
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.neurons.maps import Correspondence, combined
from fedmerge.merging.neurons.sums import has_offset
from fedmerge.models.graph import Layer


def matched_columns(networks: Networks, layer: Layer, maps: Correspondence) -> Tensor:
    """``sum_m out_m W_m into_m`` with batch norm folded into each W_m, as columns d x n (n x d if depthwise).

    Where all parents compute the same function up to the order of their neurons, so does this layer.
    """
    folded = [effective(state, layer) for state in networks.states]
    like = networks.like[layer.weight]
    states = [{layer.weight: weight} for weight, _ in folded]
    weight = combined(layer.weight, states, like, maps, not layer.depthwise)
    offset = None
    if has_offset(layer):
        out = maps.out(layer.weight, 0, networks.channels(layer), len(like))
        shifts = [torch.zeros(len(w), dtype=w.dtype) if b is None else b.cpu() for w, b in folded]
        offset = torch.stack([table @ b for table, b in zip(out, shifts, strict=True)]).sum(0)
    columns = as_columns(weight, offset)
    return columns.T if layer.depthwise else columns
