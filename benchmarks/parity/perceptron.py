"""A perceptron with one hidden layer in plain numpy: all of a network that the comparisons need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Perceptron:
    """z = V relu(W x + b) + c; W: h x d, b: h, V: k x h, c: k."""

    w: Array
    b: Array
    v: Array
    c: Array

    def hidden(self, x: Array) -> Array:
        """Pre-activations, n x h."""
        return x @ self.w.T + self.b

    def logits(self, x: Array) -> Array:
        """n x k."""
        return np.maximum(self.hidden(x), 0) @ self.v.T + self.c

    def module(self) -> nn.Module:
        """The same in PyTorch, float64; module 1 is the hidden layer, module 3 the output layer."""
        hidden, out = nn.Linear(*self.w.T.shape), nn.Linear(*self.v.T.shape)
        net = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), out).double().eval()
        with torch.no_grad():
            for layer, weight, bias in ((hidden, self.w, self.b), (out, self.v, self.c)):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
        return net

    def flat(self) -> Array:
        """All numbers, in the order of the module's parameters."""
        return np.concatenate([part.ravel() for part in (self.w, self.b, self.v, self.c)])

    def unflat(self, numbers: Array) -> Perceptron:
        """The inverse of :meth:`flat`, in the shape of this one."""
        parts = np.split(numbers, np.cumsum([p.size for p in (self.w, self.b, self.v)]))
        shapes = [p.shape for p in (self.w, self.b, self.v, self.c)]
        return Perceptron(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def reordered(self, order: NDArray[np.int64]) -> Perceptron:
        """The same function with neuron ``order[k]`` in place k."""
        return Perceptron(self.w[order], self.b[order], self.v[:, order], self.c)


def drawn(seed: int, inputs: int, hidden: int, classes: int) -> Perceptron:
    """Random weights."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=(hidden, inputs)) / inputs**0.5, rng.normal(size=(classes, hidden)) / hidden**0.5
    return Perceptron(w, 0.3 * rng.normal(size=hidden), v, 0.3 * rng.normal(size=classes))


def beside(net: Perceptron, seed: int, step: float) -> Perceptron:
    """A copy of ``net`` with its neurons in another order and all numbers moved a little."""
    rng = np.random.default_rng(seed)
    moved = net.unflat(net.flat() + step * rng.normal(size=net.flat().size))
    return moved.reordered(rng.permutation(len(net.b)))


def read(module: nn.Module) -> Perceptron:
    """The numbers of a module as :meth:`Perceptron.module` makes it."""
    state = {key: value.detach().double().numpy() for key, value in module.state_dict().items()}
    return Perceptron(*(state[f"{place}.{kind}"] for place in (1, 3) for kind in ("weight", "bias")))
