"""Group the parents' neurons by what they do where levels end; groups are numbered like model 0's neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedmerge.merging.matching.assignment import pair
from fedmerge.merging.matching.hungarian_fusion import pair_all
from fedmerge.merging.neurons.kmeans import Starts, averaging, kmeans
from fedmerge.merging.neurons.maps import Correspondence, Maps, clustered, one_to_one
from fedmerge.models.graph import Group, Level, Neurons, Part, Program, Run

Centroids = Literal["second", "first", "farthest"]


@dataclass(frozen=True)
class Ending:
    """Where a level ends: the dimension of its value's channels, how many, and a tensor they also stand in.

    axis: key and dimension of a weight along which the same channels stand, or None where there is none;
    parts: the groups along it.
    """

    dim: int
    width: int
    axis: tuple[str, int] | None
    parts: tuple[Part, ...]


def endings(
    program: Program, pieces: Sequence[Level], neurons: Neurons, shapes: Mapping[str, Sequence[int]]
) -> list[Ending]:
    """The channels of each level's value, found in the weight that writes it or in one that reads it next.

    Channels are dimension 1 of maps N x C x H x W and the last of tokens and rows. shapes: of each weight.
    """
    found = []
    for number, level in enumerate(pieces):
        shape = level.stop.meta["val"].shape
        dim = 1 if len(shape) == 4 else len(shape) - 1
        width = int(shape[dim])
        readers = pieces[number + 1].layers if number + 1 < len(pieces) else ()
        axes = [(layer.weight, 0) for layer in reversed(level.layers)] + [(r.weight, 1) for r in readers]
        axis = next(((key, d) for key, d in axes if shapes[key][d] == width), None)
        parts = () if axis is None else neurons.axes.get(axis[0], {}).get(axis[1], ())
        found.append(Ending(dim, width, axis, parts))
    return found


def rows(value: Tensor, dim: int) -> Tensor:
    """A value as float64 rows (sample x position) by channels."""
    return value.movedim(dim, -1).flatten(0, -2).double()


@torch.no_grad()
def level_grams(
    program: Program,
    values: Sequence[Mapping[str, Tensor]],
    images: Tensor,
    pieces: Sequence[Level],
    ends: Sequence[Ending],
    *,
    batch_size: int,
    device: str,
    unit_rows: bool,
) -> list[Tensor]:
    """Per level, ``Z^T Z`` (M C x M C, on the CPU), Z the parents' values side by side, rows x M C.

    Rows are images and positions. unit_rows: scale every row of every parent to length one first.
    """
    sums: list[Tensor | None] = [None] * len(pieces)
    for x in images.split(batch_size):
        runs = [Run(program, v, x.to(device)) for v in values]
        for i, (level, end) in enumerate(zip(pieces, ends, strict=True)):
            tables = [rows(run.until(level.stop), end.dim) for run in runs]
            if unit_rows:
                tables = [t / t.norm(dim=1, keepdim=True).clamp(min=1e-12) for t in tables]
            side = torch.cat(tables, 1)
            before = sums[i]
            sums[i] = side.T @ side if before is None else before.add_(side.T @ side)
    return [s.cpu() for s in sums if s is not None]


def correspondence(
    neurons: Neurons,
    ends: Sequence[Ending],
    grams: Sequence[Tensor],
    scores: Sequence[Tensor],
    centroids: Centroids,
    rng: torch.Generator,
) -> Correspondence:
    """Which fused neuron stands for which neurons of the M parents, one decision for each group of neurons.

    grams: per level as :func:`level_grams`; scores: per level M x C. Where several levels end in one group
    (a residual stream), their Gram matrices are added, each scaled to trace one, and their scores averaged.
    The neurons of a group go through k-means; where blocks tie them (group norm), every model is paired one
    to one with the first. Groups inside levels keep the order of each parent.
    """
    models = len(scores[0])
    maps = Correspondence(neurons, [neurons] * models, (1.0 / models,) * models)
    for index, group in enumerate(neurons.groups):
        outer, weight = _of_group(index, group.size, models, ends, grams, scores)
        if group.block is None and outer.any():
            assignment = _clusters(outer, weight.flatten(), group, models, centroids, rng)
            maps.groups[index] = clustered(assignment, weight.flatten(), group.size, [group.size] * models)
        else:
            maps.groups[index] = _paired(outer, weight, group, models)
    return maps


def mixing(maps: Correspondence, end: Ending, widths: Sequence[int], shares: Tensor | None = None) -> Tensor:
    """C x sum_m C_m weights that turn the parents' channels, side by side, into targets; rows sum to one.

    widths: C_m, channels of each parent here. shares: M x C, for an end whose channels stand along no weight
    (1/M for None).
    """
    models = len(maps.parents)
    if end.axis is None:
        each = [torch.full((end.width,), 1 / models, dtype=torch.float64)] * models
        return torch.cat([torch.diag(share) for share in (each if shares is None else shares)], 1)
    return torch.cat(maps.out(*end.axis, widths, end.width), 1)


def mixed(values: Sequence[Tensor], weights: Tensor, dim: int) -> Tensor:
    """Return the parents' values side by side, times weights C x sum of C_m; channels along ``dim`` again."""
    side = torch.cat([value.movedim(dim, -1) for value in values], -1)
    return (side @ weights.to(side).T).movedim(-1, dim)


def _of_group(
    index: int,
    size: int,
    models: int,
    ends: Sequence[Ending],
    grams: Sequence[Tensor],
    scores: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """A group's summed Gram matrix (M n x M n) and mean scores (M x n, one where there are none)."""
    outer = torch.zeros(models * size, models * size, dtype=torch.float64)
    total, count = torch.zeros(models, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for end, gram, score in zip(ends, grams, scores, strict=True):
        scale = gram.trace().clamp(min=1e-300)
        for part in (p for p in end.parts if p.group == index):
            for channels in part.positions.T:
                here = (torch.arange(models)[:, None] * size + part.neurons).flatten()
                there = (torch.arange(models)[:, None] * end.width + channels).flatten()
                outer[here[:, None], here] += gram[there[:, None], there] / scale
                total[:, part.neurons] += score[:, channels]
                count[part.neurons] += 1
    return outer, torch.where(count > 0, total / count.clamp(min=1), torch.ones_like(total))


def _clusters(
    outer: Tensor, scores: Tensor, group: Group, models: int, centroids: Centroids, rng: torch.Generator
) -> Tensor:
    """The fused neuron of each of M n neurons, strand by strand (see ``Group``)."""
    result = torch.arange(group.size).repeat(models)
    for strand in torch.unique(group.strand):
        members = (group.strand == strand).nonzero()[:, 0]
        n = len(members)
        pool = (torch.arange(models)[:, None] * group.size + members).flatten()
        table, weight = outer[pool][:, pool], scores[pool]
        if not table.any():
            continue
        begin = n if centroids == "second" and models > 1 else 0
        first = None if centroids == "farthest" else torch.arange(begin, begin + n)
        found = kmeans(
            table, table, weight, n, rng=rng, starts=Starts(first=n, given=first), gain=0.0
        ).assignment
        likeness = averaging(found, weight, n) @ table[:, :n]  # mean of each cluster with model 0's neurons
        result[pool] = members[pair(-likeness)[found]]
    return result


def _paired(outer: Tensor, scores: Tensor, group: Group, models: int) -> Maps:
    """The models one to one; where nothing is known of a group, in the order of each parent."""
    permutations = [torch.arange(group.size)] * models
    if outer.any():
        permutations, _ = pair_all(outer, scores.flatten(), models, group)
    return one_to_one(permutations, torch.stack([scores[m][p] for m, p in enumerate(permutations)]))
