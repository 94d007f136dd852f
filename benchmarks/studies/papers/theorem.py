"""Theorem 1 of Rethinking: bounds of outputs by depth and factor, and the outputs themselves.

Perceptrons of 2 to 8 layers, with biases and without, two a seed from one initialisation, and the network of
the magnification. All rows are of the mean of the weights; ``held`` counts all models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise

from torch import nn

from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.images import SIDE, Pictures, pictures
from benchmarks.studies.papers.networks import LAYERS, Workshop, rates, seen
from fedmerge.analysis.diagnosis import ANALYSES, Subject
from fedmerge.analysis.diagnosis.bounds import MEAN
from fedmerge.seeding import generator

DEPTHS = (2, 3, 4, 5, 6, 7, 8)
BIASES = {"plain": False, "biased": True}
WIDTH = 64
CHAINS = ("vgg19-plain",)
FACTORS = (0.1, 1.0, 10.0, 100.0)
MODELS = 2
TESTED = 100
"""Images on which outputs are measured."""
VALUES = ("norm", "bound", "theorem", "entry", "variance", "variance_bound", "variance_theorem")
HELD = {"theorem": "norm", "entry": "norm", "bound": "norm", "variance_theorem": "variance"}
"""Of a bound: the column that it bounds."""


def cells(shop: Workshop, data: str, seeds: int) -> Iterator[Cell]:
    """Yield a cell for each seed: the perceptrons, and the convolutional network."""
    for name, make in {"perceptrons": _perceptrons, "chains": _chains}.items():
        for seed in range(seeds):
            yield Cell(f"theorem-{name}-{seed}", partial(make, shop, data, seed))


def _perceptrons(shop: Workshop, data: str, seed: int) -> Iterator[Row]:
    found = pictures(data, seed, shop.sizes.images, shop.sizes.tested)
    for kind, bias in BIASES.items():
        for depth in DEPTHS:
            models = {
                f"model {number}": shop.trained(
                    perceptron(depth, bias, found.classes, seed), found.train,
                    rates("plain") | {"epochs": 2 * shop.sizes.epochs}, seed,
                    {"what": "perceptron", "depth": depth, "bias": bias, "width": WIDTH, "data": data,
                        "site": f"model {number}"},
                )
                for number in range(MODELS)
            }  # fmt: skip
            yield from _rows(models, found, f"{data} perceptron {kind}", depth, seed)


def _chains(shop: Workshop, data: str, seed: int) -> Iterator[Row]:
    found = pictures(data, seed, shop.sizes.images, shop.sizes.tested)
    for network in CHAINS:
        names = [f"model {number}" for number in range(MODELS)]
        models = {
            name: shop.tuned(network, data, found.train, found.classes, seed, site=name) for name in names
        }
        yield from _rows(models, found, f"{data} {network}", LAYERS[network], seed)


def _rows(
    models: Mapping[str, nn.Module], found: Pictures, setting: str, depth: int, seed: int
) -> Iterator[Row]:
    """The outputs of the mean of the weights and their bounds, and in how many layers of all a bound held."""
    x, _ = (part[:TESTED] for part in seen(found.test))
    frame = ANALYSES["bounds"].call(Subject.of(models, x), factors=FACTORS).frame
    for factor in FACTORS:
        here = frame[frame["factor"] == factor]
        (last,) = here[(here["model"] == MEAN) & (here["depth"] == depth)].to_dict("records")
        for name in VALUES:
            yield Row("theorem", setting, seed, name, "value", float(last[name]), factor, depth)
        for name, value in HELD.items():
            kept = float((here[value] <= here[name] * (1 + 1e-9)).mean())
            yield Row("theorem", setting, seed, name, "held", kept, factor, depth)


def perceptron(depth: int, bias: bool, classes: int, seed: int) -> nn.Module:
    """Build a perceptron of ``depth`` linear layers with ReLU, initialised by the seed (He et al., 2015)."""
    draws = generator(seed, f"perceptron of {depth}")
    widths = [3 * SIDE * SIDE, *[WIDTH] * (depth - 1), classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after, bias=bias)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
        if bias:
            nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
