"""``merge``: the one door to every fusion method, from modules in memory or a pool on disk."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.methods import FUSION, Context, Parents
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import BatchNormPolicy, State


@dataclass(frozen=True)
class MergeResult:
    """One model made out of many.

    model: the fused module, in eval mode. coefficients: the weight of each parent, by name.
    decisions: the method's log, one dict a trial. seconds: wall time of the fusion.
    forward_passes: what one prediction of ``model`` costs.
    """

    model: nn.Module
    method: str
    coefficients: dict[str, float]
    decisions: list[dict[str, Any]]
    seconds: float
    forward_passes: int


def merge(
    models: Sequence[nn.Module] | ModelPool,
    method: str = "mean",
    *,
    data: Tensor | None = None,
    labels: Tensor | None = None,
    score: Callable[[State], float] | None = None,
    names: Sequence[str] | None = None,
    examples: Sequence[int] | None = None,
    batch_norm: BatchNormPolicy = "mixture",
    seed: int = 0,
    **options: Any,
) -> MergeResult:
    """Fuse ``models`` of one architecture into one by a registered method; the inputs are not changed.

    data: N x C x H x W, as the models take it; labels: N class indices. Together they give methods that
    validate a score (accuracy on them), unless ``score`` (state -> number, higher is better) is given.
    names, examples: one name and one number of training images a model. batch_norm: how running
    statistics are merged (``average``, ``mixture`` of moments, ``first``). options: the method's own,
    see ``fedmerge methods``.

    Raises FedMergeError for an unknown method or option, an unmet need, or models that are not alike.

    >>> fused = merge([net_a, net_b], "mean").model            # doctest: +SKIP
    """
    registered = FUSION[method]
    checked = registered.check(options)
    parents = Parents.of(models, names, examples)
    if score is None and data is not None and labels is not None:
        score = _accuracy(parents.template, data, labels)
    context = Context(
        score=score, example=None if data is None else data[:2], batch_norm=batch_norm, seed=seed
    )
    if registered.needs.score and score is None:
        raise FedMergeError(
            f"method '{method}' needs a validation score: pass data= with labels=, or score=."
        )
    began = time.perf_counter()
    merged = registered.call(parents, context, **checked)
    seconds = time.perf_counter() - began
    return MergeResult(
        merged.model, method, merged.coefficients, merged.decisions, seconds, merged.forward_passes
    )


def _accuracy(template: nn.Module, data: Tensor, labels: Tensor) -> Callable[[State], float]:
    if len(data) != len(labels):
        raise FedMergeError(
            f"data has {len(data)} images but labels has {len(labels)}: give one label an image."
        )
    module = copy.deepcopy(template).eval()

    @torch.no_grad()
    def score(state: State) -> float:
        module.load_state_dict(state)
        hits = sum(
            int((module(x).argmax(1) == y).sum())
            for x, y in zip(data.split(256), labels.split(256), strict=True)
        )
        return hits / len(labels)

    return score
