"""Hungarian and K-means fusion of plain chains, done naively: raw activations, pseudo-inverses and loops.

A second implementation of the linear formulas of arXiv 2507.00037 (Neuron Interpolation), to check and to
time ours against. It does what the authors' program does: a layer's input X is unfolded whole, the weights
of a target are ``X^+`` times it, distances are between vectors as long as samples x positions, loops run over
neurons in Python with the other side vectorised. It shares no formula with ``fedmerge.merging.matching``; the
one thing taken from there is the generator of the first picks, so that both make the same choices. One
departure: an empty cluster is refilled before the search may end; the program can end first and leave neurons
zero. Only ``nn.Sequential`` of convolutions, linear layers and layers without weights is understood.
"""

from __future__ import annotations

import copy

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.seeding import generator

Chain = nn.Sequential
FLOAT32 = 2.0**-23


@torch.no_grad()
def hungarian(first: Chain, second: Chain, images: Tensor, *, pairwise: bool = False) -> Chain:
    """HF linear: layer by layer, neurons of two models are paired by assignment, their weights averaged.

    The cost of pairing i with j is ``||y_ij - a_i|| + ||y_ij - b_j||`` with ``y_ij = X (w_i + w_j) / 2``,
    norms not squared; the last layer keeps its order. pairwise: a loop over pairs, as the formula stands;
    else a loop over i with all j at once, which is kinder than the authors' program.
    """
    fused = copy.deepcopy(first).eval()
    costs = _costs_pair_by_pair if pairwise else _costs_row_by_row
    places = _places(fused)
    for place in places:
        x = _inputs(fused, place, images)
        a, b = (_outputs(model, place, images) for model in (first, second))
        inverse = _pseudo_inverse(x)
        left, right = inverse @ a, inverse @ b
        if place == places[-1]:
            partner = torch.arange(b.shape[1])
        else:
            partner = torch.as_tensor(linear_sum_assignment(costs(x, left, right, a, b).numpy())[1])
        _write(fused[place], (left + right[:, partner]) / 2)
    return fused


@torch.no_grad()
def kmeans(models: list[Chain], images: Tensor, seed: int = 0, tries: int = 10, again: bool = True) -> Chain:
    """KF linear: the neurons of all models are clustered, a cluster's weights are the mean of its members'.

    again: at every farthest-first pick measure the distances to all centroids chosen so far, as the authors'
    program does; False keeps the least distance and measures only to the newest, with the same picks.
    """
    fused = copy.deepcopy(models[0]).eval()
    places = _places(fused)
    for place in places:
        x = _inputs(fused, place, images)
        targets = torch.cat([_outputs(model, place, images) for model in models], 1)
        width = len(fused[place].weight)
        weights = _pseudo_inverse(x) @ targets
        if place == places[-1]:
            clusters = torch.arange(width).repeat(len(models))
        else:
            rng = generator(seed, f"k-means of {place}")
            found = [_cluster(x, weights, targets, width, rng, again) for _ in range(tries)]
            clusters = min(found, key=lambda pair: pair[1])[0]
        _write(fused[place], _centroids(weights, clusters, width))
    return fused


def _costs_pair_by_pair(x: Tensor, left: Tensor, right: Tensor, a: Tensor, b: Tensor) -> Tensor:
    costs = torch.empty(a.shape[1], b.shape[1], dtype=torch.float64)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            y = x @ ((left[:, i] + right[:, j]) / 2)
            costs[i, j] = (y - a[:, i]).norm() + (y - b[:, j]).norm()
    return costs


def _costs_row_by_row(x: Tensor, left: Tensor, right: Tensor, a: Tensor, b: Tensor) -> Tensor:
    costs = torch.empty(a.shape[1], b.shape[1], dtype=torch.float64)
    for i in range(a.shape[1]):
        y = x @ ((left[:, i : i + 1] + right) / 2)
        costs[i] = (y - a[:, i : i + 1]).norm(dim=0) + (y - b).norm(dim=0)
    return costs


def _cluster(
    x: Tensor, weights: Tensor, targets: Tensor, width: int, rng: torch.Generator, again: bool
) -> tuple[Tensor, float]:
    """One try: clusters of the targets' columns and their cost, the sum of distances that are not squared."""
    seeds = _farthest_first(x, weights, targets, width, rng, again)
    clusters = _distances(targets, x @ weights[:, seeds]).argmin(0)
    history: list[float] = []
    while True:
        distances = _distances(targets, x @ _centroids(weights, clusters, width))
        least, new = distances.min(0)
        history.append(float(least.sum()))
        new = _refilled(new, least, width)
        repeated = bool((new == clusters).all())
        clusters = new
        if repeated or (len(history) > 3 and history[-1] >= 0.95 * history[-4]):
            return clusters, history[-1]


def _farthest_first(
    x: Tensor, weights: Tensor, targets: Tensor, width: int, rng: torch.Generator, again: bool
) -> list[int]:
    """The first pick is a random neuron of the first model; each next is farthest from its nearest pick."""
    chosen = [int(torch.randint(width, (1,), generator=rng))]
    least = torch.full((targets.shape[1],), torch.inf, dtype=targets.dtype)
    while len(chosen) < width:
        for index in chosen if again else chosen[-1:]:
            least = torch.minimum(least, (targets - (x @ weights[:, index])[:, None]).norm(dim=0))
        least[chosen] = -1
        chosen.append(int(least.argmax()))
    return chosen


def _distances(targets: Tensor, centroids: Tensor) -> Tensor:
    """Clusters x neurons."""
    return torch.stack([(targets - centroid[:, None]).norm(dim=0) for centroid in centroids.T])


def _centroids(weights: Tensor, clusters: Tensor, width: int) -> Tensor:
    return torch.stack([weights[:, clusters == cluster].mean(1) for cluster in range(width)], 1)


def _refilled(clusters: Tensor, least: Tensor, width: int) -> Tensor:
    """An empty cluster takes the neuron farthest from its centroid whose own cluster keeps another."""
    clusters, least = clusters.clone(), least.clone()
    for cluster in range(width):
        if not (clusters == cluster).any():
            shared = torch.bincount(clusters, minlength=width)[clusters] > 1
            worst = int(torch.where(shared, least, -1.0).argmax())
            clusters[worst], least[worst] = cluster, 0
    return clusters


def _pseudo_inverse(x: Tensor) -> Tensor:
    """Moore-Penrose, with the cut-off on singular values that float32 has by default in numpy and torch."""
    return torch.linalg.pinv(x, rtol=max(x.shape) * FLOAT32)


def _places(chain: Chain) -> list[int]:
    """Which modules of a chain have weights; raises TypeError for one that is not understood."""
    plain = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
    for module in chain:
        conv = isinstance(module, nn.Conv2d) and module.groups == 1 and isinstance(module.padding, tuple)
        if not (conv or isinstance(module, (nn.Linear, *plain))):
            raise TypeError(f"the naive fusion does not understand {module}.")
    return [place for place, module in enumerate(chain) if isinstance(module, nn.Conv2d | nn.Linear)]


def _inputs(chain: Chain, place: int, images: Tensor) -> Tensor:
    """The rows a layer sees, unfolded whole: (sample x position) x d, the last column ones for a bias."""
    x, layer = chain[:place](images), chain[place]
    if isinstance(layer, nn.Conv2d):
        patches = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        x = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return x if layer.bias is None else torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def _outputs(chain: Chain, place: int, images: Tensor) -> Tensor:
    """A layer's pre-activations: (sample x position) x neurons."""
    z = chain[: place + 1](images)
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]) if z.ndim == 4 else z


def _write(layer: nn.Module, columns: Tensor) -> None:
    """Weights, and the bias in the last row, into a layer."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    rows = columns.T
    if layer.bias is not None:
        layer.bias.copy_(rows[:, -1])
        rows = rows[:, :-1]
    layer.weight.copy_(rows.reshape(layer.weight.shape))
