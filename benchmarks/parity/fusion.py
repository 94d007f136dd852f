"""Our fusion methods against their formulas, written out anew in numpy for perceptrons (``formulas.py``).

Prints for each method the largest difference of weights or outputs, relative to the largest of the formula's;
exits with 1 where one is above its tolerance. `python -m benchmarks.parity.fusion --hidden 32 --images 400`.
Matching methods are fitted as the authors' programs do (pseudo-inverse, towards zero). Importance is
conductance, unless a line says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fedmerge as fm
from benchmarks.parity import formulas
from benchmarks.parity.agreement import Row, compare, report
from benchmarks.parity.perceptron import Array, Perceptron, beside, drawn, read
from fedmerge.models.state import State

INPUTS, CLASSES = 12, 4
THEIRS = {"solver": "pinv", "towards": "zero"}
BY = {"attribution": "conductance", "normalisation": "none"}
FIT = 1e-8  # least squares from second moments: the condition number counts twice


class Case:
    """Parents, images and classes; all drawn from one seed."""

    def __init__(self, seed: int, hidden: int, images: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(images, INPUTS))
        self.start = drawn(seed, INPUTS, hidden, CLASSES)
        self.y = self.start.logits(self.x).argmax(1)
        self.apart = [drawn(seed + m, INPUTS, hidden, CLASSES) for m in (1, 2)]
        self.alike = [self.start, *(beside(self.start, seed + m, 0.02) for m in (1, 2))]
        self.tuned = [
            self.start.unflat(self.start.flat() + 0.2 * rng.normal(size=self.start.flat().size))
            for _ in range(3)
        ]

    def merge(self, nets: Sequence[Perceptron], method: str, **options: Any) -> Perceptron:
        """What fedmerge makes of them."""
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        return read(fm.merge([net.module() for net in nets], method, data=x, labels=y, **options).model)

    def answers(self, nets: Sequence[Perceptron], method: str, **options: Any) -> Array:
        """The logits of what fedmerge makes of them, for an ensemble."""
        x = torch.from_numpy(self.x)
        fused = fm.merge(
            [net.module() for net in nets], method, data=x, labels=torch.from_numpy(self.y), **options
        )
        return fused.model(x).detach().numpy()

    def score(self, theta: Array) -> float:
        """How near weights come to a mean that favours the last model, so that soups take several of them."""
        goal = np.array([0.2, 0.2, 0.6]) @ np.stack([net.flat() for net in self.tuned])
        return -float(np.linalg.norm(theta - goal))

    def of_state(self, state: State) -> float:
        """The same for weights by name."""
        parts: list[Tensor] = [state[key] for key in ("1.weight", "1.bias", "3.weight", "3.bias")]
        return self.score(np.concatenate([part.double().numpy().ravel() for part in parts]))


def matching(case: Case) -> Iterator[Row]:
    """Methods that look for neurons of several parents that do the same."""
    x, nets = case.x, case.apart
    uniform, by = formulas.ones(nets), formulas.conductance(nets, x, case.y)
    for cost, power in (("squared", 2), ("l2", 1)):
        for words, s, options in (("uniform", uniform, {}), ("conductance", by, BY)):
            fused = case.merge(nets, "hf", cost=cost, **THEIRS, **options)
            yield compare(
                f"hf, {cost}, {words}", fused.flat(), formulas.matched_fit(nets, x, s, power).flat(), FIT
            )
            fused = case.merge(nets, "rebasin", cost=cost, **options)
            yield compare(
                f"rebasin, {cost}, {words}", fused.flat(), formulas.rebasin(nets, x, s, power).flat()
            )
    for words, s, options in (("uniform", uniform, {}), ("conductance", by, BY)):
        fused = case.merge(nets, "ot", **options)
        yield compare(f"ot, {words}", fused.flat(), formulas.transport(nets, x, s).flat(), 1e-6)
    alike = case.alike
    by = formulas.conductance(alike, x, case.y)
    for words, s, options in (("uniform", formulas.ones(alike), {}), ("conductance", by, BY)):
        wanted = formulas.matched_fit(alike, x, s, 2).logits(x)
        fused = case.merge(alike, "kf", **THEIRS, **options)
        yield compare(f"kf, three parents, {words}", fused.logits(x), wanted, FIT)
        closed = {"ridge": 1e-12, "towards": "zero"}
        fused = case.merge(alike, "kf-gradient", closed_form=closed, **options)
        yield compare(f"kf-gradient, closed form, {words}", fused.logits(x), wanted, FIT)


def averages(case: Case) -> Iterator[Row]:
    """Methods that average in place."""
    nets, x = case.tuned, case.x
    flat = np.stack([net.flat() for net in nets])
    weights = [0.2, 0.5, 0.3]
    yield compare("mean, weighted", case.merge(nets, "mean", weights=weights).flat(), weights @ flat)
    mean = case.start.unflat(flat.mean(0))
    fused = case.merge(nets, "mean", after="repair")
    yield compare("mean, then repair", fused.flat(), formulas.repaired(mean, nets, x).flat())
    fused = case.merge(nets, "regmean", off_diagonal=0.9, ridge=0.0)
    yield compare("regmean", fused.flat(), formulas.regmean(nets, x, 0.9).flat(), FIT)
    yield compare("fisher", case.merge(nets, "fisher").flat(), formulas.fisher(nets, x, 1e-6))
    for name, formula in (
        ("greedy", formulas.greedy), ("greedy-v1", formulas.greedy_v1), ("greedy-v2", formulas.greedy_v2),
    ):  # fmt: skip
        fused = case.merge(nets, name, score=case.of_state)
        yield compare(name, fused.flat(), formula(nets, case.score))


def task_vectors(case: Case) -> Iterator[Row]:
    """Methods that begin at the parents' common start."""
    nets, start = case.tuned, case.start.module()
    origin = case.start.flat()
    wanted = origin + 0.3 * sum(net.flat() - origin for net in nets)
    yield compare("task-arithmetic", case.merge(nets, "task-arithmetic", start=start).flat(), wanted)
    fused = case.merge(nets, "ties", start=start, keep=0.3)
    yield compare("ties", fused.flat(), formulas.ties(origin, nets, 0.3))
    yield compare(
        "model-stock",
        case.merge(nets, "model-stock", start=start).flat(),
        formulas.model_stock(case.start, nets),
    )
    found = case.merge(nets, "dare", start=start, drop=0.5).flat()
    yield compare("dare, some subset", found, formulas.dare(origin, nets, found, 0.5, 0.3))


def ensembles(case: Case) -> Iterator[Row]:
    """Means of what the parents answer."""
    nets, x = case.apart, case.x
    z = np.stack([net.logits(x) for net in nets])
    yield compare("ensemble-logits", case.answers(nets, "ensemble-logits"), z.mean(0))
    found = case.answers(nets, "ensemble-probabilities")
    yield compare("ensemble-probabilities", formulas.softmax(found), formulas.softmax(z).mean(0))
    features = np.mean([np.maximum(net.hidden(x), 0) for net in nets], 0)
    wanted = features @ np.mean([net.v for net in nets], 0).T + np.mean([net.c for net in nets], 0)
    yield compare("ensemble-features", case.answers(nets, "ensemble-features"), wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=16, help="neurons of the hidden layer")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args(argv)
    case = Case(args.seed, args.hidden, args.images)
    parts = (matching, averages, task_vectors, ensembles)
    return report(row for part in parts for row in part(case))


if __name__ == "__main__":
    sys.exit(main())
