"""The graph of a network: its operations, and which of its neurons are tied to each other.

``program`` derives the operations of any ``nn.Module`` and runs them one by one; ``neurons`` finds which
entries of which tensors belong to one neuron; ``following`` remembers both by architecture; ``permute`` moves
neurons and checks that outputs stay the same; ``levels`` cuts a network into pieces that one tensor passes
between. No network is written by hand.
"""

from fedmerge.models.graph.following import follow, neurons_of
from fedmerge.models.graph.levels import Level, levels
from fedmerge.models.graph.neurons import Group, Neurons, Part, find_neurons
from fedmerge.models.graph.permute import check_neurons, permute, random_permutations
from fedmerge.models.graph.program import Layer, Norm, Program, Run

__all__ = [
    "Group",
    "Layer",
    "Level",
    "Neurons",
    "Norm",
    "Part",
    "Program",
    "Run",
    "check_neurons",
    "find_neurons",
    "follow",
    "levels",
    "neurons_of",
    "permute",
    "random_permutations",
]
