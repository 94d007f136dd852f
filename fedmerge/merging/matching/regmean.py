"""RegMean: the layer nearest, in least squares, to what each model's layer answers on its own inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.parents import Parents
from fedmerge.models.graph import Layer
from fedmerge.models.state import State, average
from fedmerge.registry import Needs


@FUSION.method(
    "regmean",
    title="RegMean",
    paper="Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv 2212.09849",
    needs=Needs(individual_models=True, fusion_sums=True, own_sums=True),
)
def regmean(parents: Parents, context: Context, *, off_diagonal: float = 0.9, ridge: float = 1e-6) -> Merged:
    """``W = (sum_m G_m)^-1 sum_m G_m W_m`` for every linear and convolutional layer, G_m = X_m^T X_m.

    X_m are the inputs of model m's own layer: in a federation on its own hospital's images, else on ``data``.
    Entries of G_m off the diagonal are multiplied by ``off_diagonal`` (the paper's alpha) and each G_m is
    divided by its number of images. Everything else (biases, norms) is averaged; batch norms are not folded.
    ridge: added to the sum's diagonal, in units of its mean, and pulling towards the mean of the weights.
    Meant for models from one start. The released code has no ridge and merges linear layers alone; it scales
    nothing off the diagonal unless told to (by 0.1 in most of its experiments).
    """
    if not 0 <= off_diagonal <= 1:
        raise FedMergeError(f"off_diagonal is {off_diagonal}: it must lie between 0 and 1.")
    networks = Networks.of(parents, context)
    statistics = networks.statistics(context)
    sums = statistics.ask("inputs", {}, {})
    state: State = average(parents.states(), None, batch_norm=context.batch_norm)
    for layer in networks.layers:
        grams = [
            sums[f"{m}/{layer.name}"] / float(sums.get(f"{m}/images", sums["images"]))
            for m in range(len(parents))
        ]
        weights = [states[layer.weight] for states in networks.states]
        state[layer.weight] = _merged(layer, grams, weights, off_diagonal, ridge)
    return Merged(parents.module(state), uniform(parents), fitted=True)


def _merged(
    layer: Layer, grams: list[Tensor], weights: list[Tensor], off_diagonal: float, ridge: float
) -> Tensor:
    like = weights[0]
    total = right = None
    for gram, weight in zip(grams, weights, strict=True):
        gram = gram.cpu()
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
        scaled = gram * (off_diagonal + (1 - off_diagonal) * eye)
        columns = weight.cpu().double().reshape(len(weight), -1)
        answer = (scaled @ columns[..., None])[..., 0] if layer.depthwise else scaled @ columns.T
        total = scaled if total is None else total + scaled
        right = answer if right is None else right + answer
    assert total is not None
    assert right is not None
    scale = total.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp(min=1e-300)
    mean = torch.stack([w.cpu().double().reshape(len(w), -1) for w in weights]).mean(0)
    held = total + ridge * scale * torch.eye(total.shape[-1], dtype=total.dtype)
    pull = ridge * scale * (mean[..., None] if layer.depthwise else mean.T)
    if layer.depthwise:
        return torch.linalg.solve(held, right[..., None] + pull)[..., 0].reshape(like.shape).to(like)
    return torch.linalg.solve(held, right + pull.reshape(right.shape)).T.reshape(like.shape).to(like)
