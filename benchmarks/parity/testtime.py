"""Our test-time methods against their formulas, written anew in numpy for perceptrons (``adaptation.py``).

Prints for each method the largest difference of its answers over a stream of batches, relative to the largest
of the formula's; exits with 1 where one is above its tolerance. `python -m benchmarks.parity.testtime`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.parity import adaptation as formulas
from benchmarks.parity.agreement import Row, compare, report
from benchmarks.parity.formulas import softmax
from benchmarks.parity.perceptron import Array, Perceptron, drawn
from fedmerge.testtime import TESTTIME

INPUTS, CLASSES, BATCH = 16, 5, 24
SIDE = 4  # the images are SIDE x SIDE, for the methods that move them
TOLERANCE = 1e-5  # the networks are float32


class Case:
    """Sources tuned from one start, and a stream of batches."""

    def __init__(self, seed: int, hidden: int, batches: int) -> None:
        rng = np.random.default_rng(seed)
        start = drawn(seed, INPUTS, hidden, CLASSES)
        size = start.flat().size
        tuned = [start.unflat(2 * (start.flat() + 0.1 * rng.normal(size=size))) for _ in range(3)]
        self.nets = [net.unflat(net.flat().astype(np.float32).astype(np.float64)) for net in tuned]
        self.batches = [
            rng.normal(size=(BATCH, INPUTS)).astype(np.float32).astype(float) for _ in range(batches)
        ]
        self.mean = formulas.merged(self.nets, np.full(3, 1 / 3))

    def node(self, method: str, **options: Any) -> Any:
        """The method on these sources."""
        return TESTTIME[method].call([net.module().float() for net in self.nets], **options)

    def answers(self, method: str, **options: Any) -> Array:
        """What a method says of the stream."""
        node = self.node(method, **options)
        return np.concatenate([node(pixels(x)).double().numpy() for x in self.batches])

    def each(self, formula: Any, *options: Any) -> Array:
        """What a formula says of the stream, batch by batch."""
        return np.concatenate([formula(self.nets, x, *options) for x in self.batches])


def pixels(x: Array) -> torch.Tensor:
    """Rows as images of one channel."""
    return torch.from_numpy(x).float().reshape(len(x), 1, SIDE, SIDE)


def merging(case: Case) -> Iterator[Row]:
    """Methods that merge the sources anew for a batch or an image."""
    rows = {
        "entropy-adaptive": ({}, case.each(formulas.entropy_adaptive, 0.1)),
        "dawin, by image": ({}, case.each(formulas.dawin, True)),
        "dawin, by batch": ({"form": "batch"}, case.each(formulas.dawin, False)),
        "js-coefficients, generalist": ({}, case.each(formulas.generalist, 0.5)),
        "js-coefficients, consensus": ({"rule": "consensus"}, case.each(formulas.consensus, 0.1)),
    }
    for name, (options, wanted) in rows.items():
        yield compare(name, case.answers(name.split(",")[0], **options), wanted, TOLERANCE)

    def ensemble(nets: Sequence[Perceptron], x: Array) -> Array:
        p = np.stack([softmax(net.logits(x)) for net in nets])
        shares = formulas.softmin(formulas.entropies(p).mean(1) / np.log(CLASSES), 0.1)
        return np.tensordot(shares, p, 1)

    found = softmax(case.answers("entropy-weighted"))
    yield compare("entropy-weighted", found, case.each(ensemble), TOLERANCE)


def adapting(case: Case) -> Iterator[Row]:
    """Methods that adapt the mean of the sources."""
    mean, batches = case.mean, case.batches
    options = {"learning_rate": 1e-2, "pseudo_labels": 0.1, "confidence": 0.6}
    wanted = formulas.shot(mean, batches, 1e-2, 0.1, 0.6)
    yield compare("shot", case.answers("shot", **options), wanted, 1e-4)
    logits = 3 * mean.logits(batches[0])
    loss = case.node("shot", **options).loss(torch.from_numpy(logits))
    yield compare("shot, its loss", float(loss), formulas.shot_loss(logits, 0.1, 0.6), TOLERANCE)
    wanted = formulas.adamerging(case.nets, batches, 1e-2)
    yield compare("adamerging", case.answers("adamerging", learning_rate=1e-2), wanted, 1e-4)
    yield compare("t3a", case.answers("t3a", keep=3), formulas.t3a(mean, batches, 3), TOLERANCE)
    wanted = np.concatenate([formulas.lame(mean, x, 5, 100) for x in batches])
    yield compare("lame", softmax(case.answers("lame", neighbours=5)), wanted, 1e-4)
    node = case.node("memo", learning_rate=0.05)
    views = [node.views(image).double().numpy().reshape(-1, INPUTS) for image in pixels(batches[0])]
    wanted = formulas.memo(mean, batches[0], views, 0.05)
    yield compare("memo", node(pixels(batches[0])).double().numpy(), wanted, TOLERANCE)


def norms(case: Case) -> Iterator[Row]:
    """Methods that adapt normalisation: Linear, norm, ReLU, Linear, with the mean model's weights."""
    net, rng = case.mean, np.random.default_rng(1)
    width = len(net.b)
    moments = rng.normal(size=width), rng.uniform(0.5, 2.0, size=width)
    batch_norm, layer_norm = (with_norm(net, kind, moments) for kind in (nn.BatchNorm1d, nn.LayerNorm))
    wanted = []
    for x in case.batches:
        h, share = net.hidden(x), BATCH / (BATCH + 8)
        mean = (1 - share) * moments[0] + share * h.mean(0)
        var = (1 - share) * moments[1] + share * h.var(0)
        wanted.append(np.maximum((h - mean) / np.sqrt(var + 1e-5), 0) @ net.v.T + net.c)
    node = TESTTIME["bn-adapt"].call([batch_norm], source_images=8)
    found = np.concatenate([node(pixels(x)).double().numpy() for x in case.batches])
    yield compare("bn-adapt", found, np.concatenate(wanted), TOLERANCE)
    node = TESTTIME["tent"].call([layer_norm], learning_rate=1e-2)
    found = np.concatenate([node(pixels(x)).double().detach().numpy() for x in case.batches])
    affine, adam, said = np.stack([np.ones(width), np.zeros(width)]), formulas.Adam(1e-2), []
    for x in case.batches:
        h = net.hidden(x)
        unit = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
        z = affine[0] * unit + affine[1]
        said.append(np.maximum(z, 0) @ net.v.T + net.c)
        inner = formulas.of_entropy(said[-1]) @ net.v * (z > 0)
        affine = adam.step(affine, np.stack([(inner * unit).sum(0), inner.sum(0)]))
    yield compare("tent", found, np.concatenate(said), 1e-4)


def with_norm(net: Perceptron, kind: type[nn.Module], moments: tuple[Array, Array]) -> nn.Module:
    """The perceptron with a norm before its ReLU."""
    flatten, hidden, relu, out = net.module().float()
    norm = kind(len(net.b))
    if isinstance(norm, nn.BatchNorm1d):
        for buffer, value in zip((norm.running_mean, norm.running_var), moments, strict=True):
            buffer.copy_(torch.from_numpy(value))
    return nn.Sequential(flatten, hidden, norm, relu, out).eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=32, help="neurons of the hidden layer")
    parser.add_argument("--batches", type=int, default=8)
    args = parser.parse_args(argv)
    case = Case(args.seed, args.hidden, args.batches)
    return report(row for part in (merging, adapting, norms) for row in part(case))


if __name__ == "__main__":
    sys.exit(main())
