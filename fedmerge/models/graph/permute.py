"""Permute neurons, and check that a network's outputs do not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.graph.neurons import Group, Neurons, Part
from fedmerge.models.graph.program import Program
from fedmerge.models.state import State
from fedmerge.seeding import generator


def permute(state: Mapping[str, Tensor], neurons: Neurons, permutations: Mapping[int, Tensor]) -> State:
    """Put neuron ``p[k]`` of each group into place k, in every tensor it stands in.

    permutations: by index of the group, int64 of its size; groups that are not named stay. A permutation
    must respect strands and blocks (see ``Group``). Returns new tensors where something moved.
    """
    moved = {key: _moved(state[key], dims, permutations) for key, dims in neurons.axes.items()}
    return {**state, **moved}


def random_permutations(neurons: Neurons, seed: int) -> dict[int, Tensor]:
    """A random allowed permutation of every group, the same for the same seed."""
    rng = generator(seed, "random permutations")
    return {i: _random(group, rng) for i, group in enumerate(neurons.groups)}


@torch.no_grad()
def check_neurons(program: Program, state: Mapping[str, Tensor], neurons: Neurons, seed: int = 0) -> None:
    """Check that the network gives the same outputs whatever allowed permutation its neurons are in.

    Raises FedMergeError with the operations that are not supported, or the layer whose neurons turn out to be
    tied in another way than was derived (float64; a difference over 1e-8 of the largest output). Tensors of
    equal entries, as many are before training, are given random ones: in a head of zeros nothing would show.
    """
    if neurons.unsupported:
        raise FedMergeError(
            f"{program.name} holds {'; '.join(neurons.unsupported)}, whose neurons cannot be followed: use a "
            "method that does not match neurons (mean, greedy, an ensemble)."
        )
    images = torch.randn(program.example.shape, generator=generator(seed, "check of neurons")).double()
    values = program.values(state)
    values |= _varied({name: values[name] for name in program.keys}, seed)

    def outputs(permutations: Mapping[int, Tensor]) -> Tensor:
        return program.run(_Permuted(values, program.keys, neurons, permutations), images)

    expected, permutations = outputs({}), random_permutations(neurons, seed)
    if _same(expected, outputs(permutations)):
        return
    for index, permutation in permutations.items():
        if not _same(expected, outputs({index: permutation})):
            raise FedMergeError(
                f"the neurons of '{neurons.groups[index].name}' in {program.name} are tied in a way that "
                "could not be derived: permuting them changes the outputs. Use a method that does not match "
                "neurons (mean, greedy, an ensemble)."
            )


class _Permuted(Mapping[str, Tensor]):
    """A program's values, permuted and in float64, each made when it is read: never all at once."""

    def __init__(
        self,
        values: Mapping[str, Tensor],
        keys: Mapping[str, str],
        neurons: Neurons,
        permutations: Mapping[int, Tensor],
    ) -> None:
        self._values = values
        self._keys = keys
        self._neurons = neurons
        self._permutations = permutations

    def __getitem__(self, name: str) -> Tensor:
        value, key = self._values[name], self._keys.get(name, "")
        value = _moved(value, self._neurons.axes.get(key, {}), self._permutations)
        return value.double() if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _varied(values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the values whose entries are all equal, with numbers from [1/2, 1) added to the entries."""
    rng = generator(seed, "varied values")
    found = {}
    for name, value in values.items():
        if value.is_floating_point() and value.numel() > 1 and bool((value == value.reshape(-1)[0]).all()):
            found[name] = value + 0.5 + 0.5 * torch.rand(value.shape, generator=rng).to(value)
    return found


def _moved(value: Tensor, dims: Mapping[int, tuple[Part, ...]], permutations: Mapping[int, Tensor]) -> Tensor:
    for dim, parts in dims.items():
        index = torch.arange(value.shape[dim])
        for part in parts:
            if part.group in permutations:
                index[part.positions] = part.positions[_places(part, permutations[part.group])]
        if not torch.equal(index, torch.arange(len(index))):
            value = value.index_select(dim, index.to(value.device))
    return value


def _places(part: Part, permutation: Tensor) -> Tensor:
    """Return, for each row of ``part``, the row whose neuron takes its place."""
    lookup = torch.full((int(max(part.neurons.max(), permutation.max())) + 1,), -1)
    lookup[part.neurons] = torch.arange(len(part.neurons))
    return lookup[permutation[part.neurons]]


def _random(group: Group, rng: torch.Generator) -> Tensor:
    order = torch.arange(group.size)
    if group.block is None:
        return _shuffled(order, group.strand, rng)
    blocks = [order[group.block == b] for b in torch.unique(group.block)]
    moved = [blocks[int(i)] for i in torch.randperm(len(blocks), generator=rng)]
    result = order.clone()
    for place, source in zip(blocks, moved, strict=True):
        result[place] = _shuffled(source, group.strand[source], rng)
    return result


def _shuffled(members: Tensor, strand: Tensor, rng: torch.Generator) -> Tensor:
    result = members.clone()
    for one in torch.unique(strand):
        places = (strand == one).nonzero()[:, 0]
        result[places] = members[places[torch.randperm(len(places), generator=rng)]]
    return result


def _same(expected: Tensor, found: Tensor) -> bool:
    scale = float(expected.abs().max()) or 1.0
    return bool((expected - found).abs().max() <= 1e-8 * scale)
