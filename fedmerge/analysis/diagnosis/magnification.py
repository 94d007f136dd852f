"""Magnification: all weights times c, averaged and ensembled, in float32 and without overflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Score, Subject, answers, score
from fedmerge.analysis.diagnosis.words import points
from fedmerge.errors import FedMergeError
from fedmerge.models.copies import faithful, fill
from fedmerge.models.state import State
from fedmerge.registry import Needs

Precision = Literal["float32", "exact"]
FACTORS = (0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 50.0, 90.0, 100.0, 110.0, 200.0)


@ANALYSES.method(
    "magnification",
    title="All weights magnified",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, fusion_labels=True),
    misfits={},
)
def magnification(
    subject: Subject, *, factors: tuple[float, ...] = FACTORS, what: Literal["all", "weights"] = "all"
) -> Finding:
    """Multiply parameters by c and compare mean and ensemble, in float32 and without overflow (``exact``).

    A ReLU network without norms and with L layers answers c^L g(x), where c changes g only through the
    biases:

        h_l = relu(c W_l h_{l-1} + c b_l) = c^l g_l,    g_l = relu(W_l g_{l-1} + c^{-(l-1)} b_l)     (B.1)

    so c^L overflows float32 long before classes change. ``exact`` computes in float64, whose largest number
    is 1.8e308: c = 200 in 19 layers is 5e43. ``what``: ``all`` floating-point entries, running statistics
    too, as the paper does, or ``weights`` alone, without biases, norms and statistics.

    Tables: ``magnification``, a row for each c, precision and who (``members``: the mean of the models' own;
    ``mean`` of their weights; ``ensemble`` of their logits) with accuracy, the share of images with finite
    logits, and the largest logit; ``bounds``, for each parameter the mean's largest entry and variance, which
    may not exceed the largest among the models (Eq. 5-11). In it the variance bound holds where models are
    independent, and ``held`` says whether it did.
    """
    subject.check_alike()
    if not factors or min(factors) <= 0:
        raise FedMergeError("each factor must be above zero: weights are magnified, not erased.")
    rows = []
    for precision in ("float32", "exact"):
        for factor in factors:
            for who, found, largest in _measured(subject, factor, precision, what):
                rows.append({
                    "factor": factor, "precision": precision, "who": who, "accuracy": found.accuracy,
                    "finite": found.finite, "largest": largest,
                })  # fmt: skip
    frame = pd.DataFrame(rows)
    return Finding({"magnification": frame, "bounds": _bounds(subject)}, *_said(frame))


def magnified(model: nn.Module, factor: float, keys: Sequence[str], dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model in ``dtype`` with the entries ``keys`` times ``factor``."""
    made = faithful(model).to(dtype)
    with torch.no_grad():
        for key, value in made.state_dict(keep_vars=True).items():
            if key in keys:
                value.mul_(factor)
    return made


def entries_of(model: nn.Module, what: str) -> list[str]:
    """Return the keys that are magnified: ``all`` that are floating point, or ``weights`` of layers alone."""
    norms = tuple(
        name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()
        or isinstance(module, _BatchNorm)
    )  # fmt: skip
    state = model.state_dict()
    if what == "all":
        return [key for key, value in state.items() if value.is_floating_point()]
    return [
        key for key, value in state.items()
        if value.is_floating_point() and "bias" not in key.rpartition(".")[2]
        and key.rpartition(".")[0] not in norms
    ]  # fmt: skip


def _measured(subject: Subject, factor: float, precision: str, what: str) -> list[tuple[str, Score, float]]:
    dtype = torch.float32 if precision == "float32" else torch.float64
    images = subject.pictures.to(dtype)
    keys = entries_of(next(iter(subject.models.values())), what)

    def logits(model: nn.Module) -> Tensor:
        return answers(magnified(model, factor, keys, dtype), images)

    own = [logits(model) for model in subject.models.values()]
    merged = logits(fill(subject.network(), subject.mean()))
    singles = [score(each, subject.classes, subject.task) for each in own]
    mean_single = Score(
        float("nan"), sum(s.accuracy for s in singles) / len(own), sum(s.finite for s in singles) / len(own)
    )
    together = torch.stack(own).mean(0)
    return [
        ("members", mean_single, max(_largest(each) for each in own)),
        ("mean", score(merged, subject.classes, subject.task), _largest(merged)),
        ("ensemble", score(together, subject.classes, subject.task), _largest(together)),
    ]


def _largest(logits: Tensor) -> float:
    return float(logits.nan_to_num(nan=torch.inf).abs().max())


def _bounds(subject: Subject) -> pd.DataFrame:
    mean: State = subject.mean()
    rows = []
    for key in subject.parameters:
        parents = [state[key].detach().double() for state in subject.states]
        merged = mean[key].double()
        spread: Callable[[Tensor], float] = lambda value: float(value.var(correction=0))  # noqa: E731
        rows.append({
            "layer": key, "largest": float(merged.abs().max()),
            "largest_bound": max(float(p.abs().max()) for p in parents),
            "variance": spread(merged), "variance_bound": max(map(spread, parents)),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    frame["held"] = (frame["largest"] <= frame["largest_bound"] * (1 + 1e-6)) & (
        frame["variance"] <= frame["variance_bound"] * (1 + 1e-6)
    )
    return frame


def _said(frame: pd.DataFrame) -> tuple[str, float]:
    """Compare mean with ensemble where float32 sets them furthest apart, and there without overflow."""
    wide = frame.pivot_table(index=["precision", "factor"], columns="who", values="accuracy")
    gain = wide["mean"] - wide["ensemble"]
    base = gain.loc["float32"] - gain.loc["exact"]
    factor = float(base.abs().idxmax())
    float32, exact = float(gain.loc[("float32", factor)]), float(gain.loc[("exact", factor)])
    if abs(float32 - exact) < 0.01:
        return (
            "Magnified weights give the same comparison in float32 as without overflow: nothing overflows.",
            0.0,
        )
    return (
        f"At c = {factor:g} the mean is {points(float32)} above the ensemble in float32 and {points(exact)} "
        "without overflow: the difference is one of number formats, not of merging."
    ), float32 - exact
