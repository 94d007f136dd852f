"""Which neuron of a fused model stands for which neurons of its parents, and the average that follows.

A correspondence has, for each group of neurons and each of M parents, two matrices: ``out`` (n_F x n_m) says
how much each parent's neuron counts in a fused neuron (a row sums to one over all parents), and ``into`` (n_m
x n_F) by which fused neurons a parent's neuron is replaced as an input of the next layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import running_pairs
from fedmerge.models.graph import Neurons, Part
from fedmerge.models.state import BatchNormPolicy, State

Shares: TypeAlias = dict[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Maps:
    """The two matrices of one group, one of each a parent."""

    out: tuple[Tensor, ...]
    into: tuple[Tensor, ...]


@dataclass
class Correspondence:
    """The maps of all groups matched so far.

    fused: neurons of the fused model; parents: of each parent. share: weight of each parent (sums to one) in
    what no group covers. channels: by key and dimension of a tensor, M x size, the weights by importance of
    the positions that no group covers (the classes of the output layer); empty where all count alike.
    groups: by index.
    """

    fused: Neurons
    parents: Sequence[Neurons]
    share: tuple[float, ...]
    channels: Shares = field(default_factory=dict)
    groups: dict[int, Maps] = field(default_factory=dict)

    def known(self, key: str) -> bool:
        """Whether all groups that stand in a tensor are matched."""
        return all(
            part.group in self.groups for parts in self.fused.axes.get(key, {}).values() for part in parts
        )

    def out(self, key: str, dim: int, sizes: Sequence[int], size: int) -> list[Tensor]:
        """For each parent, size x size_m: its entries' weights along a dimension that belongs to neurons."""
        maps = [
            self._channels(m, key, dim, (size, width), {g: known.out[m] for g, known in self.groups.items()})
            for m, width in enumerate(sizes)
        ]
        free = unmatched(self.fused, key, dim, size)
        given = self.channels.get((key, dim))
        for m, table in enumerate(maps):
            own = unmatched(self.parents[m], key, dim, sizes[m], of=(m, len(free)))
            table[free, own] = self.share[m] if given is None else given[m, free]
        return maps

    def into(self, key: str, dim: int, sizes: Sequence[int], size: int) -> list[Tensor]:
        """For each parent, size_m x size: the fused inputs that stand for its inputs."""
        maps = [
            self._channels(
                m, key, dim, (size, width), {g: known.into[m].T for g, known in self.groups.items()}
            )
            for m, width in enumerate(sizes)
        ]
        free = unmatched(self.fused, key, dim, size)
        for m, table in enumerate(maps):
            table[free, unmatched(self.parents[m], key, dim, sizes[m], of=(m, len(free)))] = 1.0
        return [table.T for table in maps]

    def _channels(
        self, m: int, key: str, dim: int, shape: tuple[int, int], tables: Mapping[int, Tensor]
    ) -> Tensor:
        """A group's matrix spread over the positions of its neurons along one dimension of a tensor."""
        table = torch.zeros(shape, dtype=torch.float64)
        ours = self.fused.axes.get(key, {}).get(dim, ())
        theirs = self.parents[m].axes.get(key, {}).get(dim, ())
        for part, other in zip(ours, theirs, strict=True):
            small = tables[part.group].cpu().double()
            if _whole(part, shape[0]) and _whole(other, shape[1]):
                return small.clone()
            small = small[part.neurons][:, other.neurons]
            for to, come in zip(part.positions.T, other.positions.T, strict=True):
                table[to[:, None], come[None, :]] = small
        return table


def _whole(part: Part, size: int) -> bool:
    """Whether a part is a dimension of this size, each neuron in its own place."""
    every = torch.arange(size)
    return torch.equal(part.neurons, every) and torch.equal(part.positions, every[:, None])


def unmatched(neurons: Neurons, key: str, dim: int, size: int, of: tuple[int, int] | None = None) -> Tensor:
    """The positions along a dimension of ``key`` that belong to no group; they keep their order.

    of: a parent's number, and how many such positions the fused model has. Raises FedMergeError where the
    parent has another number: other inputs, or other classes.
    """
    taken = torch.zeros(size, dtype=torch.bool)
    for part in neurons.axes.get(key, {}).get(dim, ()):
        taken[part.positions] = True
    found = (~taken).nonzero()[:, 0]
    if of is not None and len(found) != of[1]:
        what = ("outputs", "classes") if dim == 0 else ("inputs", "inputs")
        raise FedMergeError(
            f"'{key}' has {len(found)} {what[0]} that keep their place in model {of[0]}, but {of[1]} in the "
            f"model to be made: merge models of the same {what[1]}."
        )
    return found


def one_to_one(permutations: Sequence[Tensor], weights: Tensor) -> Maps:
    """Maps of permutations: parent m's neuron ``p_m[k]`` belongs to fused neuron k, with weight ``weights[m,
    k]``.

    weights: M x n, normalised here so that each fused neuron's sum to one.
    """
    share = weights.double() / weights.double().sum(0)
    into = []
    for permutation in permutations:
        table = torch.zeros(len(permutation), len(permutation), dtype=torch.float64)
        table[permutation, torch.arange(len(permutation))] = 1.0
        into.append(table)
    return Maps(tuple(share[m][:, None] * table.T for m, table in enumerate(into)), tuple(into))


def clustered(assignment: Tensor, scores: Tensor, width: int, sizes: Sequence[int]) -> Maps:
    """Maps of clusters: neuron j, counted over all parents, belongs to fused neuron ``assignment[j]``."""
    from fedmerge.merging.neurons.kmeans import averaging

    out = averaging(assignment, scores, width).cpu().split(list(sizes), 1)
    member = torch.zeros(len(assignment), width, dtype=torch.float64)
    member[torch.arange(len(assignment)), assignment.cpu()] = 1.0
    return Maps(tuple(out), tuple(member.split(list(sizes), 0)))


def combined(
    key: str, states: Sequence[Mapping[str, Tensor]], like: Tensor, maps: Correspondence, inputs: bool
) -> Tensor:
    """One entry of the fused model as the matched average of its parents', in float64.

    ``sum_m out_m W_m into_m`` along the dimensions that belong to neurons. inputs: whether dimension 1 holds
    inputs (the weight of a layer that is not depthwise).
    """
    total = torch.zeros(like.shape, dtype=torch.float64)
    values = [state[key].detach().cpu().double() for state in states]
    known = [*maps.fused.axes.get(key, {}), *(dim for name, dim in maps.channels if name == key)]
    dims = [dim for dim in dict.fromkeys(known) if not (inputs and dim == 1)]
    out = into = None
    for dim in dims:  # one at most: a neuron's own weights stand along one dimension
        out = maps.out(key, dim, [v.shape[dim] for v in values], like.shape[dim])
    moved = bool(maps.fused.axes.get(key, {}).get(1)) or {v.shape for v in values} != {like.shape}
    if inputs and moved:  # else each input stands for itself
        into = maps.into(key, 1, [v.shape[1] for v in values], like.shape[1])
    for m, value in enumerate(values):
        if into is not None:
            value = torch.einsum("oi...,ij->oj...", value, into[m])
        total += maps.share[m] * value if out is None else along(out[m], value, dims[-1])
    return total


def along(table: Tensor, value: Tensor, dim: int) -> Tensor:
    """Multiply a matrix with a tensor along one of its dimensions."""
    moved = value.movedim(dim, 0)
    diagonal = table.diagonal()
    if table.shape[0] == table.shape[1] and table.count_nonzero() == diagonal.count_nonzero():
        return (diagonal.reshape(-1, *[1] * (value.ndim - 1)) * moved).movedim(0, dim)
    return (table @ moved.reshape(len(moved), -1)).reshape(-1, *moved.shape[1:]).movedim(0, dim)


def matched_average(
    states: Sequence[Mapping[str, Tensor]],
    like: Mapping[str, Tensor],
    maps: Correspondence,
    layers: set[str],
    batch_norm: BatchNormPolicy = "mixture",
) -> State:
    """Every entry of the fused model as the matched average of its parents'.

    like: a state of the fused model's architecture, for shapes, dtypes and integer buffers. layers: keys of
    weights whose dimension 1 holds inputs. batch_norm: running variances are those of the mixture, ``sum out
    (v + m^2) - m'^2``, or plain averages, or with ``first`` both statistics are those of ``like``.
    """
    pairs = running_pairs(like)
    variances = {var: mean for mean, var in pairs} if batch_norm == "mixture" else {}
    kept = {key for pair in pairs for key in pair} if batch_norm == "first" else set()
    new: State = {}
    for key, value in like.items():
        if not value.is_floating_point() or key in kept:
            new[key] = value.clone()
            continue
        given = states
        if key in variances:
            mean = variances[key]
            given = [{key: s[key].double() + s[mean].double().square()} for s in states]
        new[key] = combined(key, given, value, maps, key in layers)
    for var, mean in variances.items():
        new[var] = (new[var] - new[mean].square()).clamp_(min=0)
    return {key: value.to(like[key].dtype) for key, value in new.items()}
