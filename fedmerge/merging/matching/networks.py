"""The networks of one fusion: programs, neurons and weights of the parents and of the model to be made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.methods import Context
from fedmerge.merging.neurons.statistics import LocalStatistics, Statistics
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import entries, refuse_complex
from fedmerge.models.graph import Layer, Neurons, Part, Program, follow, neurons_of
from fedmerge.models.state import State


@dataclass(frozen=True)
class Networks:
    """Parents and fused model, ready to be matched; layers and groups correspond by their order.

    states: the parents' weights. like: the fused model's architecture with some weights, for shapes.
    """

    fused: Program
    neurons: Neurons
    like: State
    programs: tuple[Program, ...]
    parents: tuple[Neurons, ...]
    states: tuple[State, ...]

    @classmethod
    def of(cls, parents: Parents, context: Context) -> Networks:
        """Derive programs and tied neurons.

        Raises FedMergeError where neurons cannot be followed, and for complex weights.

        Parents of one architecture share one program. Models of other widths are followed one by one; they
        must be the same network but for the widths.
        """
        if context.example is None:
            raise FedMergeError(
                "matching neurons needs to run the models once: pass data=, a batch as they take it."
            )
        states = tuple(parents.states())
        for state in states:
            refuse_complex(state, "matching of neurons")
        like = entries(parents.template)
        fused, neurons = _followed(parents.template, like, context.example)
        others = [
            (fused, neurons) if _alike(state, like) else _followed(parents.network(m), state, context.example)
            for m, state in enumerate(states)
        ]
        for name, (program, found) in zip(parents.names, others, strict=True):
            _check_form(name, fused, neurons, program, found)
        programs, found_neurons = zip(*others, strict=True)
        return cls(fused, neurons, like, programs, found_neurons, states)

    def __len__(self) -> int:
        return len(self.states)

    def statistics(self, context: Context) -> Statistics:
        """Return the source of sums over fusion images: the context's, or sums over its ``data`` here.

        Raises FedMergeError where it has neither.
        """
        if context.statistics is not None:
            return context.statistics
        if context.data is None:
            raise FedMergeError("this method needs fusion images: pass data=, or statistics=.")
        parents = list(zip(self.programs, self.states, strict=True))
        return LocalStatistics(self.fused, parents, context.data, context.labels, device=context.device)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the fused model."""
        return self.fused.layers

    @property
    def one_width(self) -> bool:
        """Whether the parents and the model to be made have tensors of the same shapes."""
        return all(_alike(state, self.like) for state in self.states)

    def sizes(self, group: int) -> list[int]:
        """How many neurons each parent has in a group."""
        return [neurons.groups[group].size for neurons in self.parents]

    def channels(self, layer: Layer) -> list[int]:
        """How many channels each parent has in a layer."""
        return [state[layer.weight].shape[0] for state in self.states]

    def groups_of(self, layer: Layer) -> list[int]:
        """The groups that a layer's channels belong to."""
        return list(dict.fromkeys(part.group for part in self.neurons.axes[layer.weight].get(0, ())))

    def writers(self, group: int) -> list[Layer]:
        """The layers that compute neurons of a group."""
        return [layer for layer in self.layers if group in self.groups_of(layer)]

    def table(self, group: int, layer: Layer, channels: Tensor) -> Tensor:
        """Turn sums over pairs of channels into sums over pairs of neurons of one group.

        channels: c x c, the parents' channels of a layer side by side. Returns n x n, the parents' neurons
        side by side; zero between neurons of different strands, which are never compared.
        """
        sizes, widths = self.sizes(group), self.channels(layer)
        sides = [list(self._parts(group, layer, m, sizes, widths)) for m in range(len(self))]
        strands = [
            (torch.cat([rows for rows, _ in same]), torch.cat([places for _, places in same]))
            for same in zip(*sides, strict=True)
        ]
        every = torch.arange(sum(sizes))
        if len(strands) == 1 and all(torch.equal(index.flatten(), every) for index in strands[0]):
            return channels  # each channel is a neuron, in the same order
        table = torch.zeros(sum(sizes), sum(sizes), dtype=channels.dtype, device=channels.device)
        for rows, places in strands:
            for place in places.T:
                table[rows[:, None], rows] += channels[place[:, None], place]
        return table

    def _parts(
        self, group: int, layer: Layer, m: int, sizes: Sequence[int], widths: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        parts: tuple[Part, ...] = self.parents[m].axes[layer.weight][0]
        for part in parts:
            if part.group == group:
                yield part.neurons + sum(sizes[:m]), part.positions + sum(widths[:m])


def _followed(module: nn.Module, state: State, example: Tensor) -> tuple[Program, Neurons]:
    program = follow(module, example)
    return program, neurons_of(program, state)


def _alike(state: State, like: State) -> bool:
    return state.keys() == like.keys() and all(state[key].shape == like[key].shape for key in like)


def _check_form(name: str, fused: Program, neurons: Neurons, program: Program, found: Neurons) -> None:
    same_layers = [layer.name for layer in fused.layers] == [layer.name for layer in program.layers]
    if not same_layers or len(neurons.groups) != len(found.groups):
        raise FedMergeError(
            f"'{name}' is not the same network as the model to be made, but for its widths: give models with "
            "the same layers in the same order."
        )
    ours, theirs = (net.output.meta["val"].shape[1:] for net in (fused, program))
    if ours != theirs:
        raise FedMergeError(
            f"'{name}' gives outputs of {' x '.join(map(str, theirs))}, the model to be made of "
            f"{' x '.join(map(str, ours))}: widths may differ inside, but the classes must be the same."
        )
