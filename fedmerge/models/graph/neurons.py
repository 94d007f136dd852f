"""Which neurons of a network may change places, and where each of them stands in the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmerge.models.graph.labels import FIXED, Labels
from fedmerge.models.graph.program import Program
from fedmerge.models.graph.rules import label


@dataclass(frozen=True)
class Group:
    """Neurons that may change places without changing the function, if all tensors they stand in follow.

    name: the layer that they are first seen in. size: how many. strand: for each, a number; a neuron takes
    the place of one of its own strand only. block: for each, the block it moves with (the heads of attention,
    the groups of group norm), or None where each moves alone; a block takes the place of a whole block, and
    inside it neurons of a strand change places freely.
    """

    name: str
    size: int
    strand: Tensor
    block: Tensor | None


@dataclass(frozen=True)
class Part:
    """Where neurons of one group stand along one dimension of a tensor.

    neurons: k indices into the group. positions: k x r; the r indices along the dimension that belong to
    each.
    """

    group: int
    neurons: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Neurons:
    """The groups of a network, and by key and dimension the parts of each tensor that belong to them.

    unsupported: operations whose neurons stay where they are, in words.
    """

    groups: tuple[Group, ...]
    axes: dict[str, dict[int, tuple[Part, ...]]]
    unsupported: tuple[str, ...]


def find_neurons(program: Program, values: Mapping[str, Tensor]) -> Neurons:
    """Derive the groups of tied neurons from a program; of ``values`` only the shapes are used.

    Two neurons may change places if they stand in the same tensors, along the same dimensions, equally often,
    pass through the same operations, and no block keeps them apart. Inputs, outputs, and what an unknown
    operation touches stay where they are. Raises FedMergeError where a layer is called twice.
    """
    found = label(program, values)
    for key, labels in found.elements.items():
        _add_elements(found, key, labels)
    roots = found.unions.roots
    axes = {key: {dim: roots(n) for dim, n in dims.items()} for key, dims in sorted(found.axes.items())}
    strands = _strands(axes, [torch.unique(roots(met)) for met in found.passes])
    families = [[roots(block).tolist() for block in blocks] for blocks in found.blocks]
    joined = _groups(strands, families)
    names = _names(program, axes)
    return Neurons(
        tuple(replace(group, name=names[members[0]]) for group, members in joined),
        _parts(axes, [members for _, members in joined]),
        tuple(dict.fromkeys(found.unsupported)),
    )


def _add_elements(found: Labels, key: str, labels: Tensor) -> None:
    """A weight used entry by entry: its neurons stand along the one dimension along which they vary."""
    roots = found.unions.roots(labels)
    varying = [d for d in range(roots.ndim) if bool((roots != roots.narrow(d, 0, 1)).any())]
    if key in found.axes:  # used by a layer, too
        found.freeze([roots, *found.axes[key].values()])
    elif len(varying) == 1:
        index = tuple(slice(None) if d == varying[0] else 0 for d in range(roots.ndim))
        found.axes[key] = {varying[0]: roots[index]}
    elif roots.numel() > 1:
        found.freeze(roots)


def _strands(axes: dict[str, dict[int, Tensor]], passes: list[Tensor]) -> list[list[int]]:
    """Neurons with the same places: in the same tensors along the same dimensions, in the same operations."""
    standing = [roots for dims in axes.values() for roots in dims.values()]
    places: dict[int, list[int]] = defaultdict(list)
    for place, roots in enumerate([*standing, *passes]):
        for root in roots[roots > FIXED].tolist():
            places[root].append(place)
    movable = {root for roots in standing for root in roots.tolist() if root > FIXED}
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for root in sorted(movable):
        alike[tuple(places[root])].append(root)
    return list(alike.values())


def _groups(strands: list[list[int]], families: list[list[list[int]]]) -> list[tuple[Group, list[int]]]:
    """Strands that share blocks are one group; a group whose blocks do not fit together cannot move."""
    strand_of = {root: i for i, strand in enumerate(strands) for root in strand}
    owner = list(range(len(strands)))  # strands joined by a family get one number
    blocks: dict[int, list[list[list[int]]]] = defaultdict(list)
    for family in families:
        touched = sorted({owner[strand_of[root]] for block in family for root in block if root in strand_of})
        if touched:
            owner = [touched[0] if o in touched else o for o in owner]
            merged = [known for t in touched for known in blocks.pop(t, [])]
            blocks[touched[0]] = [*merged, family]
    groups = []
    for number in sorted(set(owner)):
        roots = [root for i, strand in enumerate(strands) if owner[i] == number for root in strand]
        block_of = _blocks(roots, strand_of, blocks[number]) if number in blocks else {}
        if block_of is None:
            continue
        order = sorted(roots, key=lambda root: (block_of.get(root, 0), strand_of[root], root))
        strand = torch.tensor([strand_of[root] for root in order])
        block = torch.tensor([block_of[root] for root in order]) if block_of else None
        groups.append((Group("", len(order), strand, block), order))
    return groups


def _blocks(
    roots: list[int], strand_of: dict[int, int], families: list[list[list[int]]]
) -> dict[int, int] | None:
    """The block of each neuron, or None where families cut the neurons differently or blocks are unlike.

    A block that holds a neuron that cannot move cannot move either.
    """
    block_of: dict[int, int] = {}
    for family in families:
        cut = {root: i for i, block in enumerate(family) for root in block if root in strand_of}
        mixed = any(0 < sum(root in strand_of for root in block) < len(block) for block in family)
        twice = any(cut[root] != i for i, block in enumerate(family) for root in block if root in cut)
        known = all(block_of.get(root, i) == i for root, i in cut.items())
        if mixed or twice or not known:
            return None
        block_of |= cut
    counts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for root in roots:
        if root not in block_of:
            return None
        counts[block_of[root]][strand_of[root]] += 1
    shapes = {tuple(sorted(count.items())) for count in counts.values()}
    return block_of if len(shapes) == 1 else None


def _names(program: Program, axes: dict[str, dict[int, Tensor]]) -> dict[int, str]:
    """By neuron, the first layer that computes it, or the first tensor that it stands in."""
    names: dict[int, str] = {}
    computed = [(layer.name, axes[layer.weight][0]) for layer in program.layers]
    standing = [(key, roots) for key, dims in axes.items() for roots in dims.values()]
    for name, roots in [*computed, *standing]:
        for root in roots.tolist():
            names.setdefault(root, name)
    return names


def _parts(
    axes: dict[str, dict[int, Tensor]], groups: list[list[int]]
) -> dict[str, dict[int, tuple[Part, ...]]]:
    """By key and dimension, where the neurons of each group stand."""
    owner = torch.full(
        (1 + max((int(n.max()) for dims in axes.values() for n in dims.values()), default=0),), -1
    )
    index = owner.clone()
    for number, members in enumerate(groups):
        owner[torch.tensor(members)] = number
        index[torch.tensor(members)] = torch.arange(len(members))
    return {
        key: {dim: _parts_along(roots, owner, index) for dim, roots in dims.items()}
        for key, dims in axes.items()
    }


def _parts_along(roots: Tensor, owner: Tensor, index: Tensor) -> tuple[Part, ...]:
    """The parts along one dimension. owner, index: by neuron, its group and its place there, or -1."""
    groups = torch.where(roots >= 0, owner[roots.clamp_min(0)], -1)
    found = []
    for group in torch.unique(groups[groups >= 0]).tolist():
        positions = (groups == group).nonzero()[:, 0]
        neurons = index[roots[positions]]
        positions = positions[torch.argsort(neurons, stable=True)]
        members, counts = torch.unique(neurons, return_counts=True)
        often = counts.repeat_interleave(counts)  # of each position, how often its neuron stands here
        for count in torch.unique(counts).tolist():
            found.append(Part(group, members[counts == count], positions[often == count].reshape(-1, count)))
    return tuple(found)
