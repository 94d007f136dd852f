"""Our scores of a classifier against their definitions, written out anew in numpy: pairs, bins and squares.

Prints the largest difference of each; exits with 1 where one is above its tolerance.
`python -m benchmarks.parity.metrics --images 500`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from benchmarks.parity.agreement import Row, compare, report
from benchmarks.parity.formulas import softmax
from benchmarks.parity.perceptron import Array
from fedmerge.analysis.calibration import fit_temperature
from fedmerge.analysis.metrics import scores

CLASSES, BINS = 4, 15
FLOAT32 = 1e-6


def auroc(p: Array, y: NDArray[np.int64]) -> float:
    """Of each class, the share of pairs, one in it and one not, that p_c ranks right; ties count half."""
    found = []
    for c in np.unique(y):
        gaps = p[y == c, c][:, None] - p[y != c, c]
        found.append(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    return float(np.mean(found))


def calibration_error(p: Array, y: NDArray[np.int64]) -> float:
    """The mean over images of |accuracy - confidence| of the bin (low, high] that the top class falls in."""
    sure, right = p.max(1), p.argmax(1) == y
    total = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (sure > low) & (sure <= low + 1 / BINS)
        total += abs(float((right[inside] - sure[inside]).sum()))
    return total / len(y)


def temperature(z: Array, y: NDArray[np.int64]) -> float:
    """Where the mean log-loss of z / T is least, by a search over T."""

    def loss(t: float) -> float:
        return float(-np.log(softmax(z / t)[np.arange(len(y)), y]).mean())

    return float(minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x)


def rows(seed: int, images: int) -> Iterator[Row]:
    """Random logits that know a little of the classes, one of which is rare."""
    rng = np.random.default_rng(seed)
    y = rng.choice(CLASSES, size=images, p=[0.5, 0.3, 0.15, 0.05])
    z = rng.normal(size=(images, CLASSES)) + 1.5 * (y[:, None] == np.arange(CLASSES))
    z[1::2] = z[: len(z[1::2]) * 2 : 2]  # every other image ties with its neighbour, whatever its class
    p, tensors = softmax(z), (torch.from_numpy(z), torch.from_numpy(y))
    found = scores(*tensors)
    hits = p.argmax(1) == y
    yield compare("accuracy", found["accuracy"], hits.mean())
    recalls = [hits[y == c].mean() for c in np.unique(y)]
    yield compare("balanced accuracy", found["balanced_accuracy"], np.mean(recalls), FLOAT32)
    yield compare("AUROC", found["auroc"], auroc(p, y), 1e-4)
    yield compare("expected calibration error", found["ece"], calibration_error(p, y), 1e-4)
    yield compare("Brier score", found["brier"], ((p - np.eye(CLASSES)[y]) ** 2).sum(1).mean(), FLOAT32)
    yield compare("temperature", fit_temperature(*tensors), temperature(z, y), 1e-6)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args(argv)
    return report(rows(args.seed, args.images))


if __name__ == "__main__":
    sys.exit(main())
