"""Fusion layer by layer: group the parents' neurons, then fit the fused layer to the groups' means.

Both linear methods of Neuron Interpolation (arXiv 2507.00037) are this walk; they differ in how neurons are
grouped. For each layer, with X the input that the fused model's own earlier layers make of the fusion images,
A the parents' pre-activations side by side, and R the grouping (a row per fused neuron, weights of its mean):

    T = A R^T,    W = argmin |X W - T|^2  =  (X^T X)^+ X^T A R^T

Channels of no group, those of the output layer first of all, are grouped by their place: row c of R weighs
the parents' channels c by importance, s_mc / sum_m s_mc. Everything follows from the sums X^T X, X^T A and
A^T A, so images may stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fedmerge.merging.matching.affine import fitted
from fedmerge.merging.matching.importances import Attribution, Importances, Normalisation
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.matching.prior import matched_columns
from fedmerge.merging.matching.solve import Inverse, Solver, factorised
from fedmerge.merging.methods import Context, Merged, uniform
from fedmerge.merging.neurons.maps import Correspondence, Maps, matched_average
from fedmerge.merging.neurons.statistics import Statistics, Sums
from fedmerge.merging.parents import Parents
from fedmerge.models.graph import Layer
from fedmerge.models.state import BatchNormPolicy, State

Towards = Literal["zero", "parents"]


class Match(Protocol):
    """How a method groups neurons: sums over pairs of neurons and importances in, maps out."""

    def __call__(
        self, networks: Networks, group: int, outer: Tensor, projected: Tensor, scores: Tensor
    ) -> tuple[Maps, dict[str, Any]]:
        """outer, projected: n x n, parents side by side (see ``kmeans``); scores: n."""
        ...


@dataclass(frozen=True)
class Fit:
    """How a layer is fitted.

    solver, ridge: see ``solve``. towards: what the ridge pulls to, zero (as in the paper) or the matched
    average of the parents (ours). refit: False averages the matched weights without a fit.
    """

    solver: Solver = "ridge"
    ridge: float = 1e-6
    towards: Towards = "parents"
    refit: bool = True


def fuse_layers(
    parents: Parents,
    context: Context,
    match: Match,
    fit: Fit,
    attribution: Attribution,
    normalisation: Normalisation,
) -> Merged:
    """Walk the fused model from its input to its output, layer by layer; see the module's text."""
    networks = Networks.of(parents, context)
    statistics = networks.statistics(context)
    importances = Importances(networks, statistics, attribution, normalisation)
    walk = _Walk(networks, statistics, match, fit, importances, context.batch_norm)
    state = walk.averaged() if not fit.refit else walk.fitted()
    return Merged(
        parents.module(state), uniform(parents), walk.decisions, correspondence=walk.maps, fitted=fit.refit
    )


class _Walk:
    """The state of one walk: what is matched, what is fitted, and the log."""

    def __init__(
        self,
        networks: Networks,
        statistics: Statistics,
        match: Match,
        fit: Fit,
        importances: Importances,
        batch_norm: BatchNormPolicy,
    ) -> None:
        self.networks, self.statistics, self.fit = networks, statistics, fit
        self.match, self.importances, self.batch_norm = match, importances, batch_norm
        share = tuple(1 / len(networks) for _ in networks.states)
        self.maps = Correspondence(networks.neurons, networks.parents, share, importances.shares())
        self.decisions: list[dict[str, Any]] = []
        own = [
            key for layer in networks.layers for key in (layer.weight, layer.bias, *layer.norm_keys) if key
        ]
        self.riders = [key for key, v in networks.like.items() if key not in own and v.is_floating_point()]
        self.inputs = {layer.weight for layer in networks.layers if not layer.depthwise}

    def averaged(self) -> State:
        """Match on the parents' own activations and average; no layer is fitted."""
        self._match_by_activations(list(range(len(self.networks.neurons.groups))))
        return matched_average(
            self.networks.states, self.networks.like, self.maps, self.inputs, self.batch_norm
        )

    def fitted(self) -> State:
        """Match and fit layer by layer, each on what the fitted layers before it make of the images."""
        networks = self.networks
        alone = [
            group
            for group in range(len(networks.neurons.groups))
            if len(networks.writers(group)) == 1 and not networks.writers(group)[0].depthwise
        ]
        self._match_by_activations([g for g in range(len(networks.neurons.groups)) if g not in alone])
        state = {key: value.detach().clone().cpu() for key, value in networks.like.items()}
        changed = self._settle(state, self.riders)
        self.statistics.ask("walk", {}, state)
        for layer in networks.layers:
            changed |= self._layer(layer, state, changed)
        return state

    def _layer(self, layer: Layer, state: State, changed: State) -> State:
        """Fit one layer; returns what changed. ``changed`` is sent to the statistics and emptied."""
        open_groups = [g for g in self.networks.groups_of(layer) if g not in self.maps.groups]
        options, told = {"name": layer.name}, dict(changed)
        changed.clear()
        if open_groups:
            sums = self.statistics.ask("layer", options, told)
            inverse = self._factorised(sums)
            self._match_by_projections(layer, open_groups, sums, inverse)
            cross = sums["cross"] @ torch.cat(self._mix(layer), 1).to(sums["cross"]).T
        else:
            sums = self.statistics.ask("layer", options, told | {".mix": torch.cat(self._mix(layer), 1)})
            inverse, cross = self._factorised(sums), sums["cross"]
        columns = self._solved(layer, sums["gram"], cross, inverse)
        new = fitted(state, layer, columns.cpu(), sums["gram"].cpu())
        new |= self._settle(state, [key for key in self.riders if open_groups])
        state |= new
        return new

    def _match_by_projections(self, layer: Layer, groups: list[int], sums: Sums, inverse: Inverse) -> None:
        """Match groups that this layer alone writes, as far as the fused layer can express them."""
        projected = inverse.between(sums["cross"])
        for group in groups:
            outer = self.networks.table(group, layer, sums["outer"])
            self._decide(group, outer, self.networks.table(group, layer, projected))

    def _factorised(self, sums: Sums) -> Inverse:
        fit = self.fit
        return factorised(sums["gram"], solver=fit.solver, ridge=fit.ridge, rows=int(sums["rows"]))

    def _solved(self, layer: Layer, gram: Tensor, cross: Tensor, inverse: Inverse) -> Tensor:
        """The layer's columns (d x n; c x d where depthwise), towards zero or the parents' average."""
        if self.fit.towards == "zero":
            return inverse(cross[..., None])[..., 0] if layer.depthwise else inverse(cross)
        prior = matched_columns(self.networks, layer, self.maps).to(cross)
        if layer.depthwise:
            return inverse.towards(prior[..., None], gram, cross[..., None])[..., 0]
        return inverse.towards(prior, gram, cross)

    def _mix(self, layer: Layer) -> list[Tensor]:
        """For each parent, n_F x n_m: how much its channels count in the fused layer's."""
        size = self.networks.like[layer.weight].shape[0]
        return self.maps.out(layer.weight, 0, self.networks.channels(layer), size)

    def _settle(self, state: State, keys: list[str]) -> State:
        """Average the entries outside layers whose groups are all matched by now."""
        ready = [key for key in keys if self.maps.known(key)]
        for key in ready:
            self.riders.remove(key)
        average = matched_average(
            [{k: s[k] for k in ready} for s in self.networks.states],
            {k: self.networks.like[k].cpu() for k in ready},
            self.maps,
            self.inputs,
            self.batch_norm,
        )
        state |= average
        return average

    def _match_by_activations(self, groups: list[int]) -> None:
        """Match groups that several layers write (residual streams) on the sum over those layers."""
        writers = {layer.name: layer for group in groups for layer in self.networks.writers(group)}
        if not writers:
            return
        found = self.statistics.ask("outer", {"layers": list(writers), "activation": "none"}, {})
        for group in groups:
            tables = [self.networks.table(group, w, found[w.name]) for w in self.networks.writers(group)]
            outer = torch.stack(tables).sum(0)
            self._decide(group, outer, outer)

    def _decide(self, group: int, outer: Tensor, projected: Tensor) -> None:
        scores = self.importances.neurons(group).to(outer)
        self.maps.groups[group], log = self.match(self.networks, group, outer, projected, scores)
        name = self.networks.neurons.groups[group].name
        self.decisions.append({"layer": name, "neurons": self.networks.neurons.groups[group].size, **log})
