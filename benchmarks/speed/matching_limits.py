"""What a fusion of two small networks costs, against the least that any program must do for it.

Two perceptrons 784-256-10 and 400 images, by ``ot`` and by ``rebasin``. ``merge`` is a second ``fm.merge``
of the architecture in this process (the first also follows its operations, ``first``). ``bare`` is the
method written down for this one architecture and nothing else: both networks' hidden activations, the table
of distances, the same solver (POT's network simplex; SciPy's linear assignment), and the permuted mean, in
float64, without checks, names, cards or decisions. No program with this solver is faster than ``bare``, so
``merge / bare`` is the most that is left to gain. Medians of ``--repeats``, both sides in turns; the
weights must agree. For ``hf`` and ``kf``, whose least squares have no short form, ``algebra`` is the time
of a merge that is spent inside matrix products, factorisations, their solutions and the assignment, by
PyTorch's profiler; the rest is what could be saved. Run `python -m benchmarks.speed.matching_limits`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ot
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import fedmerge as fm
from benchmarks.speed.fusion_speed import digits, mlps
from fedmerge.merging.matching import assignment

Weights = list[Tensor]


def weights_of(model: nn.Module) -> Weights:
    """First weight and bias, second weight and bias, float64."""
    return [value.detach().double() for value in model.parameters()]


def bare(method: str, models: list[nn.Module], images: Tensor) -> Weights:
    """Fuse two perceptrons with one hidden layer; the second is matched to the first."""
    (w1, b1, v1, c1), (w2, b2, v2, c2) = (weights_of(model) for model in models)
    x = images.flatten(1).double()
    first, second = x @ w1.T + b1, x @ w2.T + b2
    if method == "ot":
        mass = torch.full((len(b1),), 1 / len(b1), dtype=torch.float64).numpy()
        plan = torch.from_numpy(ot.emd(mass, mass, torch.cdist(second.T, first.T).numpy())) * len(b1)
        w2, b2, v2 = plan.T @ w2, plan.T @ b2, v2 @ plan
    else:
        a, b = first.relu(), second.relu()
        apart = a.square().sum(0)[:, None] + b.square().sum(0)[None, :] - 2 * a.T @ b
        _, order = linear_sum_assignment(apart.clamp(min=0).numpy())
        w2, b2, v2 = w2[order], b2[order], v2[:, order]
    return [(one + other) / 2 for one, other in ((w1, w2), (b1, b2), (v1, v2), (c1, c2))]


def timed(act: Callable[[], object]) -> float:
    """Seconds that ``act`` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(method: str, repeats: int) -> dict[str, float]:
    """Time both sides in turns, and compare what they give."""
    images, labels = digits(400)
    models: list[nn.Module] = list(mlps(2, images, labels, epochs=1))
    ours = lambda: fm.merge(models, method, data=images)  # noqa: E731
    plain = lambda: bare(method, models, images)  # noqa: E731
    first = timed(ours)
    difference = max(
        float((one - other).abs().max()) for one, other in zip(weights_of(ours().model), plain(), strict=True)
    )
    assert difference < 1e-9, difference
    pairs = [(timed(ours), timed(plain)) for _ in range(repeats)]
    merge, least = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"first": first, "merge": merge, "bare": least, "ratio": merge / least, "difference": difference}


ALGEBRA = ("mm", "addmm", "bmm", "linear", "cholesky", "solve", "triangular", "eigh", "svd", "cdist")


def algebra(method: str, repeats: int) -> dict[str, float]:
    """Median seconds of a second merge, and how many of them are linear algebra and assignment."""
    images, labels = digits(400)
    models: list[nn.Module] = list(mlps(2, images, labels, epochs=1))
    fm.merge(models, method, data=images)
    merge = statistics.median(timed(lambda: fm.merge(models, method, data=images)) for _ in range(repeats))
    solved: list[float] = []
    solve = assignment._solve

    def counted(cost: Any) -> Any:
        began = time.perf_counter()
        found = solve(cost)
        solved.append(time.perf_counter() - began)
        return found

    with patch.object(assignment, "_solve", counted), profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(repeats):
            fm.merge(models, method, data=images)
    inside = sum(
        event.self_cpu_time_total / 1e6
        for event in seen.key_averages()
        if any(word in event.key for word in ALGEBRA)
    )
    inside = (inside + sum(solved)) / repeats
    return {"merge": merge, "algebra": inside, "ratio": merge / inside}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {method: measure(method, args.repeats) for method in ("ot", "rebasin")}
    result |= {method: algebra(method, args.repeats) for method in ("hf", "kf")}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
