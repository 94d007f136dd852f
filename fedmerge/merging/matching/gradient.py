"""K-means fusion of levels (KF gradient): group neurons where levels end, fit levels to the groups' means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.merging.attribution import importance, normalise
from fedmerge.merging.fitting import DESCENT, Descent, descend, divergence, soft_targets
from fedmerge.merging.matching.affine import fitted
from fedmerge.merging.matching.gradient_options import (
    CLOSED_FORM,
    CLUSTERING,
    LEVEL_LOSS,
    ClosedForm,
    Clustering,
    LevelLoss,
)
from fedmerge.merging.matching.grouping import correspondence, endings, level_grams, mixed, mixing
from fedmerge.merging.matching.importances import (
    Attribution,
    Normalisation,
    attribution_needs,
    shares_of,
)
from fedmerge.merging.matching.kmeans_fusion import kmeans_fusion
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.matching.prior import matched_columns
from fedmerge.merging.matching.solve import solve
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.neurons import sums
from fedmerge.merging.neurons.maps import Correspondence
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import entries
from fedmerge.models.graph import Level, Program, Run, levels
from fedmerge.models.narrow_strides import is_narrow
from fedmerge.models.state import State
from fedmerge.registry import Needs
from fedmerge.seeding import generator

BATCH = 64


@dataclass(frozen=True)
class Fitting:
    """How levels are fitted; see the options of :func:`gradient_fusion`."""

    loss: LevelLoss
    closed_form: ClosedForm
    descent: Descent


@FUSION.method(
    "kf-gradient",
    title="K-means fusion of levels",
    paper="Model Fusion via Neuron Interpolation (KF gradient), arXiv 2507.00037",
    needs=Needs(individual_models=True, fusion_images=True),
    also=attribution_needs,
    any_width=True,
)
def gradient_fusion(
    parents: Parents,
    context: Context,
    *,
    attribution: Attribution = "uniform",
    normalisation: Normalisation = "mean1",
    clustering: Clustering = CLUSTERING,
    loss: LevelLoss = LEVEL_LOSS,
    closed_form: ClosedForm = CLOSED_FORM,
    descent: Descent = DESCENT,
) -> Merged:
    """Fit the fused model, level by level, to the means of clusters of its parents' neurons.

    A level is a piece of the network that one tensor enters and one leaves (a convolution, a residual block,
    an attention). With z_j the parents' values at its end, s_j their importance, k_j the fused neuron they
    belong to,

        T_k = sum_{j: k_j = k} s_j z_j / sum_{j: k_j = k} s_j,    min_theta |f_theta(x_F) - T|^2

    where x_F is what the fused model's own earlier levels make of the fusion images. Clusters are numbered
    like the neurons of the first model they lie nearest to, so its weights are a start, and all levels that
    end in one residual stream share one grouping. Neurons that only move in blocks are paired one to one. The
    last level keeps the order of the classes, k_j = c for every parent's class c.

    clustering: the neurons that k-means begins at (``centroids``); ``unit_rows``, on values scaled to length
    one at every position. loss: of ``levels`` the mean squared error, or ``weighted`` by the sum of s in each
    cluster, which the closed form ignores; of the ``head`` likewise, or ``kl`` to the plain mean of the
    parents' probabilities at ``temperature``. closed_form: least squares for a level that is one layer after
    something without parameters, with a ``ridge`` in units of the mean squared input (None: ``weight_decay N
    K / 2``, the stationary point of descent), pulled ``towards`` the parents' matched average or zero.
    descent: other levels start as the first model's and descend by Adam on four fifths of the images, stop
    after ``patience`` epochs without improvement on the last fifth, and keep their best weights. The log's
    ``loss`` is the mean squared error over all images for a closed form, else the loss of the kept weights on
    the held-out fifth.

    Where a parent has another width than the model to be made, levels start as ``kf`` makes them of the same
    images, and keep its groups, since no parent's weights fit; ``clustering`` decides nothing there.

    Departures from the authors' program: importance weighs the logits, too (it takes their plain mean), best
    weights restored, KL of log-probabilities, scores of mean one, closed form, groups shared along residual
    streams. Dropout is off; batch norms inside a level use the running statistics that it starts with, and
    their weights are fitted. Memory: the values at one level's end of all images, for each parent. Raises
    FedMergeError for fewer than two images.
    """
    images = _images(context)
    context = replace(context, example=images[:2])
    networks = Networks.of(parents, context)
    walk = _Walk(networks, context, Fitting(loss, closed_form, descent))
    walk.score(images, attribution, normalisation)
    if networks.one_width:
        walk.group(images, clustering)
    else:
        how: dict[str, Any] = {"attribution": attribution, "normalisation": normalisation}
        walk.begin(kmeans_fusion(parents, context, **how))
    state = walk.fit(images, parameters={name for name, _ in parents.template.named_parameters()})
    return Merged(
        parents.module(state), uniform(parents), walk.decisions, correspondence=walk.maps, fitted=True
    )


class _Walk:
    """One walk from the images to the logits: what is grouped, what is fitted, and the log."""

    def __init__(self, networks: Networks, context: Context, fitting: Fitting) -> None:
        self.networks, self.context, self.fitting = networks, context, fitting
        self.program, self.device = networks.fused, context.device
        pairs = zip(networks.programs, networks.states, strict=True)
        self.values = [program.values(state, self.device) for program, state in pairs]
        self.pieces = levels(self.program)
        self.theirs = [levels(program) for program in networks.programs]
        shapes = {key: value.shape for key, value in networks.like.items()}
        self.ends = endings(self.program, self.pieces, networks.neurons, shapes)
        self.state: State = {}
        self.decisions: list[dict[str, Any]] = []

    def group(self, images: Tensor, clustering: Clustering) -> None:
        """Decide for every group of neurons which of them are one fused neuron; begin as the first model."""
        grams = level_grams(
            self.program, self.values, images, self.pieces, self.ends,
            batch_size=BATCH, device=self.device, unit_rows=clustering.unit_rows,
        )  # fmt: skip
        rng = generator(self.context.seed, "kf-gradient k-means")
        scores = [torch.stack(each) for each in self.scores]
        self.maps: Correspondence = correspondence(
            self.networks.neurons, self.ends, grams, scores, clustering.centroids, rng
        )
        pairs = zip(self.ends, self.shares, strict=True)
        self.maps.channels |= {end.axis: share for end, share in pairs if end.axis and share is not None}
        self.state = {key: value.clone() for key, value in self.networks.states[0].items()}

    def begin(self, linear: Merged) -> None:
        """Begin as a fused model of the width to be made, whose groups are kept."""
        assert linear.correspondence is not None
        self.maps = linear.correspondence
        self.state = {key: value.detach().clone() for key, value in entries(linear.model).items()}

    @torch.no_grad()
    def fit(self, images: Tensor, parameters: set[str]) -> State:
        """Fit one level after the other; returns the fused model's state."""
        x = images.to(self.device)
        theirs = [x] * len(self.networks)
        for number, (level, end) in enumerate(zip(self.pieces, self.ends, strict=True)):
            theirs = [self._parent_ahead(m, number, z) for m, z in enumerate(theirs)]
            last = level.stop is self.program.output
            kl = last and self.fitting.loss.head == "kl"
            weights = mixing(self.maps, end, [z.shape[end.dim] for z in theirs], self.shares[number])
            if kl:
                targets = soft_targets(theirs, self.fitting.loss.temperature, self.context.task).to(x.dtype)
            else:
                targets = mixed(theirs, weights, end.dim)
            if level.affine and self.fitting.closed_form.use and not kl:
                self.state |= (found := self._closed(level, x, targets))[0]
            else:
                keys = [key for key in level.keys if key in parameters]
                self.state |= (found := self._descend(number, keys, x, targets, kl))[0]
            x = _ahead(self.program, self.program.values(self.state, self.device), level, x)
            of = weights.split([z.shape[end.dim] for z in theirs], 1)
            shared = torch.stack([part.any(1) for part in of]).sum(0) > 1
            self.decisions.append(
                {"level": number, "layers": [layer.name for layer in level.layers], **found[1]}
                | {"neurons": end.width, "of_several_models": int(shared.sum())}
            )
        return self.state

    def _parent_ahead(self, m: int, number: int, x: Tensor) -> Tensor:
        """A parent's value of a level for all images, from its own input."""
        return _ahead(self.networks.programs[m], self.values[m], self.theirs[m][number], x)

    def _places(self, pieces: Sequence[Level]) -> dict[str, tuple[Node, int]]:
        """By level, the value at its end and the dimension of its channels."""
        both = zip(pieces, self.ends, strict=True)
        return {str(i): (piece.stop, end.dim) for i, (piece, end) in enumerate(both)}

    def score(self, images: Tensor, kind: Attribution, how: Normalisation) -> None:
        """Per level, of each parent's channels at its end: importance, and share by it (None: uniform)."""
        x, labels, cut = images, self.context.labels, self._places
        networks = zip(self.networks.programs, self.networks.states, self.theirs, strict=True)
        totals = [
            importance(program, state, x, labels, kind, device=self.device, places=cut(pieces))
            for program, state, pieces in networks
        ]
        found = [
            normalise({name: t / len(images) + 1e-8 for name, t in each.items()}, how) for each in totals
        ]
        names = [str(i) for i in range(len(self.pieces))]
        self.scores = [[each[name] for each in found] for name in names]
        self.shares: list[Tensor | None] = [None] * len(names)
        if kind != "uniform" and self.networks.one_width:
            used = [torch.stack([each[name] > 0 for each in totals]) for name in names]
            pairs = zip(self.scores, used, strict=True)
            self.shares = [shares_of(torch.stack(s), u) for s, u in pairs]

    def _closed(self, level: Level, x: Tensor, targets: Tensor) -> tuple[State, dict[str, Any]]:
        """The one layer of an affine level by ridge regression on the targets."""
        (layer,) = level.layers
        weight, values = self.state[layer.weight], self.program.values(self.state, self.device)
        gram: Any = 0.0
        cross: Any = 0.0
        square = count = 0.0
        for part, goal in zip(x.split(BATCH), targets.split(BATCH), strict=True):
            given = Run(self.program, values, part, start=level.start).until(layer.input)
            wanted = sums.rows(goal, layer)
            found = sums.layer_sums(layer, weight, given, wanted)
            gram, cross = gram + found.gram, cross + found.cross
            square, count = square + float(wanted.square().sum()), count + len(wanted)
        strength = self._ridge(gram, count, cross.shape[1])
        prior = matched_columns(self.networks, layer, self.maps).to(gram)
        if self.fitting.closed_form.towards == "zero":
            prior = torch.zeros_like(prior)
        columns = prior + solve(gram, cross - gram @ prior, ridge=strength)
        error = square - 2 * float((columns * cross).sum()) + float((columns * (gram @ columns)).sum())
        return fitted(self.state, layer, columns, gram), {
            "fit": "closed form",
            "epochs": 0,
            "loss": max(error, 0.0) / (count * cross.shape[1]),
        }

    def _ridge(self, gram: Tensor, count: float, width: int) -> float:
        """The ridge in units of the mean squared input: as asked for, or that of the weight decay."""
        if self.fitting.closed_form.ridge is not None:
            return self.fitting.closed_form.ridge
        scale = float(gram.diagonal().mean())
        return max(self.fitting.descent.weight_decay * count * width / 2 / scale, 1e-9) if scale > 0 else 1.0

    def _descend(
        self, number: int, keys: Sequence[str], x: Tensor, targets: Tensor, kl: bool
    ) -> tuple[State, dict[str, Any]]:
        """The parameters of a level by Adam, from the weights of the first model."""
        level, end = self.pieces[number], self.ends[number]
        leaves = {key: self.state[key].to(self.device, copy=True) for key in keys}
        if any(map(is_narrow, leaves.values())):
            x = x.contiguous()
        values = self.program.values(self.state, self.device)
        values |= {name: leaves[key] for name, key in self.program.keys.items() if key in leaves}
        weights = (
            self._cluster_weights(number).to(targets) if self.fitting.loss.levels == "weighted" else None
        )

        def loss(indices: Tensor, training: bool) -> Tensor:
            indices = indices.to(x.device)
            y = Run(self.program, values, x[indices], start=level.start).until(level.stop)
            if kl:
                temperature = self.fitting.loss.temperature
                return divergence(y, targets[indices], temperature, self.context.task)
            error = (y - targets[indices]).square().movedim(end.dim, -1)
            return (error if weights is None else error * weights).mean()

        rng = generator(self.context.seed, "kf-gradient level", number)
        fit = descend(list(leaves.values()), loss, len(x), self.fitting.descent, rng=rng)
        new = {key: leaf.to(self.state[key].device) for key, leaf in leaves.items()}
        return new, {"fit": "descent", "epochs": fit.epochs, "best_epoch": fit.best, "loss": fit.loss}

    def _cluster_weights(self, number: int) -> Tensor:
        """The sum of importances in the cluster of each fused channel, scaled to a mean of one."""
        end, scores = self.ends[number], self.scores[number]
        if end.axis is None:
            total = torch.stack(scores).sum(0)
            return total / total.mean()
        members = self.maps.into(*end.axis, [len(s) for s in scores], end.width)
        found = torch.stack([s @ into for s, into in zip(scores, members, strict=True)]).sum(0)
        return found / found.mean()


def _ahead(program: Program, values: Mapping[str, Tensor], level: Level, x: Tensor) -> Tensor:
    """A level's value for all images, from its input."""
    runs = [Run(program, values, part, start=level.start) for part in x.split(BATCH)]
    return torch.cat([run.until(level.stop) for run in runs])


def _images(context: Context) -> Tensor:
    if context.data is None or len(context.data) < 2:
        raise FedMergeError("kf-gradient fits levels on fusion images: pass data=, at least two images.")
    return context.data
