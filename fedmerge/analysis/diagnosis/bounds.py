"""Bounds of a network's outputs by its weights: how far they grow with depth and factor, and how loose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.magnification import entries_of, magnified
from fedmerge.errors import FedMergeError
from fedmerge.models.copies import fill
from fedmerge.models.entries import entries
from fedmerge.models.graph import Program, Run, follow
from fedmerge.models.graph.lipschitz import affine, chain
from fedmerge.registry import Needs

MEAN = "mean"


@ANALYSES.method(
    "bounds",
    title="Bounds of the outputs",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, fusion_images=True),
    misfits={},
)
def bounds(subject: Subject, *, factors: tuple[float, ...] = (1.0,)) -> Finding:
    """Bound the outputs of each model and of their mean, layer by layer, with all entries times a factor.

    Of a chain of layers y_l = f_l(W_l y_{l-1} + b_l), with f_l(0) = 0 and f_l L_l-Lipschitz, and s_l the
    largest singular value of W_l (``lipschitz.chain``), follow for every image x, and for images drawn
    from any distribution with covariance trace V,

        ||y_m|| <= B_m,    B_l = L_l (s_l B_{l-1} + ||b_l||),    B_0 = ||x||
        V(y_m) <= (L_1 s_1 ... L_m s_m)^2 V(x)

    The paper's Theorem 1 is the first without biases and with one L and one lambda for all layers,

        ||y_m|| <= (L lambda)^m ||x||,    V(y_m) <= (L lambda)^(2 m) V(x)

    here with lambda the largest s_l, which makes it right for networks without biases; it can fail with
    them. ``entry``: the same with lambda the largest absolute weight, the max norm of its Eq. 5-7, which
    bounds no outputs in general. The paper's own variance bound could not be read: this one is ours.

    Table ``bounds``, a row for each model and the mean, factor and layer m: ``norm``, the largest ||y_m||
    over the images, ``bound`` (B_m), ``theorem``, ``entry``; ``variance``, ``variance_bound``,
    ``variance_theorem``; ``held`` and ``theorem_held``, whether both norm and variance keep them. Computed in
    float64; infinite where that overflows. The number: the orders of magnitude by which ``theorem`` exceeds
    the largest output, mean over models at the factor nearest to 1.

    Raises FedMergeError for models of different architectures, factors that are not above zero, and networks
    that are no chain of layers (residual networks, transformers).
    """
    subject.check_alike()
    if not factors or min(factors) <= 0:
        raise FedMergeError("each factor must be above zero: weights are magnified, not erased.")
    images = subject.pictures.double()
    networks = {**subject.models, MEAN: fill(subject.network(), subject.mean())}
    program = follow(subject.network(), subject.pictures)
    keys = entries_of(subject.network(), "all")
    rows = [
        {"model": name, "factor": factor} | row
        for name, model in networks.items()
        for factor in factors
        for row in layers(program, magnified(model, factor, keys, torch.float64), images)
    ]
    frame = pd.DataFrame(rows)
    return Finding({"bounds": frame}, *_said(frame))


@torch.no_grad()
def layers(program: Program, model: nn.Module, images: Tensor) -> Iterator[dict[str, Any]]:
    """Yield, for each layer of a model in turn, the outputs of images in float64 and what bounds them.

    program: of the model's architecture. Rows as ``bounds`` has them, without model and factor.
    """
    state, pieces = entries(model), chain(program)
    run = Run(program, program.values(state, images.device), images)
    norm, variance = _seen(run.until(pieces[0].layer.input))
    maps = [affine(piece.layer, state) for piece in pieces]
    steepest = max(piece.lipschitz for piece in pieces)
    gain = steepest * max(each.gain for each in maps)
    entry = steepest * max(float(state[piece.layer.weight].abs().max()) for piece in pieces)
    bound, spread = norm, variance
    theorem, of_entry, of_variance = norm, norm, variance
    for depth, (piece, each) in enumerate(zip(pieces, maps, strict=True), start=1):
        bound = piece.lipschitz * (each.gain * bound + each.offset)
        spread *= (piece.lipschitz * each.gain) ** 2
        theorem, of_entry, of_variance = theorem * gain, of_entry * entry, of_variance * gain * gain
        norm, variance = _seen(run.until(piece.stop))
        yield {
            "layer": piece.layer.name, "depth": depth, "norm": norm, "bound": bound, "theorem": theorem,
            "entry": of_entry, "variance": variance, "variance_bound": spread,
            "variance_theorem": of_variance, "held": _within(norm, bound) and _within(variance, spread),
            "theorem_held": _within(norm, theorem) and _within(variance, of_variance),
        }  # fmt: skip


def _seen(values: Tensor) -> tuple[float, float]:
    """Return the largest norm of an image's values N x ..., and the trace of their covariance."""
    flat = values.flatten(1)
    return float(flat.norm(dim=1).max()), float(flat.var(dim=0, correction=0).sum())


def _within(value: float, most: float) -> bool:
    return value <= most * (1 + 1e-9)


def orders(frame: pd.DataFrame, above: str, below: str) -> pd.Series:
    """Return the orders of magnitude by which one column exceeds another; NaN where either is zero."""
    upper, lower = (frame[name].where(frame[name] > 0) for name in (above, below))
    return (upper / lower).map(np.log10)


def plainest(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the factor that is nearest to 1."""
    distance = frame["factor"].map(math.log).abs()
    return frame[distance == distance.min()]


def _said(frame: pd.DataFrame) -> tuple[str, float]:
    near = plainest(frame)
    last = near[near["depth"] == near["depth"].max()]
    loose, own = (float(orders(last, name, "norm").mean()) for name in ("theorem", "bound"))
    broken = int((~frame["theorem_held"]).sum())
    text = f"After {int(last['depth'].iloc[0])} layers " + (
        "a bound or the outputs are zero"
        if math.isnan(loose + own)
        else f"the bound (L lambda)^m is {loose:.1f} orders of magnitude above the largest output, the "
        f"product of the layers' own norms {own:.1f}"
    )
    failed = f"; without biases in it, the first fails at {broken} of {len(frame)} layers" if broken else ""
    return f"{text}{failed}.", loose
