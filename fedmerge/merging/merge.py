"""``merge``: the one door to every fusion method, from modules in memory or a pool on disk."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.checks import check_finite
from fedmerge.merging.matching.repair import corrected
from fedmerge.merging.matching.statistics import Statistics
from fedmerge.merging.methods import FUSION, Context, Parents
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import BatchNormPolicy, State, check_alike
from fedmerge.registry import Needs


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
    data: Tensor | Iterable[Any] | None = None,
    labels: Tensor | None = None,
    score: Callable[[State], float] | None = None,
    names: Sequence[str] | None = None,
    examples: Sequence[int] | None = None,
    start: nn.Module | State | None = None,
    statistics: Statistics | None = None,
    into: nn.Module | None = None,
    after: str = "none",
    batch_norm: BatchNormPolicy = "mixture",
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> MergeResult:
    """Fuse ``models`` into one by a registered method; the inputs are not changed.

    data: fusion images N x C x H x W as the models take them, or a loader of batches ``x`` or ``(x, y)``.
    labels: N class indices. Together they give methods that validate a score (accuracy on them), unless
    ``score`` (state -> number, higher is better) is given. names, examples: one name and one number of
    training images a model. start: the model, or its state, from which all were trained (task vectors).
    statistics: answers with sums over images that lie elsewhere, in place of ``data``. into: a module of the
    architecture to be made, where models differ in width. after: ``batch-norm`` re-estimates running
    statistics on ``data``, ``repair`` rescales every channel to the parents' statistics. batch_norm: how
    running statistics are merged (``average``, ``mixture`` of moments, ``first``). device: where to compute.
    options: the method's own, see ``fedmerge methods``.

    Raises FedMergeError for an unknown method or option, an unmet need, models that are not alike, weights
    that are not finite (with the tensor's name).

    >>> fused = merge([net_a, net_b], "kf", data=x).model            # doctest: +SKIP
    """
    registered = FUSION[method]
    checked = registered.check(options)
    parents = Parents.of(models, names, examples, into=into, any_width=registered.any_width)
    if registered.needs.individual_models:  # a sum shows what is not finite by itself
        check_finite(parents)
    images, labels = _collected(data, labels)
    if score is None and images is not None and labels is not None:
        score = _accuracy(parents.template, images, labels)
    context = Context(
        score=score,
        example=None if images is None else images[:2],
        batch_norm=batch_norm,
        seed=seed,
        data=images,
        labels=labels,
        statistics=statistics,
        start=_state_of(start, parents),
        device=device,
    )
    _check_needs(registered.name, registered.needs_with(options), context)
    began = time.perf_counter()
    merged = registered.call(parents, context, **checked)
    merged = corrected(merged, after, parents, context)
    seconds = time.perf_counter() - began
    return MergeResult(
        merged.model, method, merged.coefficients, merged.decisions, seconds, merged.forward_passes
    )


def _check_needs(method: str, needs: Needs, context: Context) -> None:
    unmet = {
        "a validation score: pass data= with labels=, or score=": needs.score and context.score is None,
        "fusion images: pass data=": needs.fusion_images and context.data is None,
        "fusion images: pass data=, or statistics=": needs.fusion_sums
        and context.data is None
        and context.statistics is None,
        "the classes of the fusion images: pass labels=": needs.fusion_labels
        and context.labels is None
        and context.statistics is None,
        "the weights from which the models were trained: pass start=": needs.shared_start
        and context.start is None,
    }
    for what, missing in unmet.items():
        if missing:
            raise FedMergeError(f"method '{method}' needs {what}.")


def _collected(
    data: Tensor | Iterable[Any] | None, labels: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Images and labels as one tensor each, from a tensor or a loader of batches."""
    if data is not None and not isinstance(data, Tensor):
        batches = [batch if isinstance(batch, list | tuple) else (batch,) for batch in data]
        if not batches:
            raise FedMergeError("data= gave no batch: give at least one image.")
        if labels is None and all(len(batch) > 1 for batch in batches):
            labels = torch.cat([batch[1] for batch in batches])
        data = torch.cat([batch[0] for batch in batches])
    if data is not None and not bool(data.isfinite().all()):
        raise FedMergeError("data= holds NaN or infinity: remove those images.")
    if data is not None and labels is not None:
        labels = labels.reshape(-1).long()
        if len(data) != len(labels):
            raise FedMergeError(
                f"data has {len(data)} images but labels has {len(labels)}: give one label an image."
            )
    return data, labels


def _state_of(start: nn.Module | State | None, parents: Parents) -> State | None:
    if start is None:
        return None
    state = start.state_dict() if isinstance(start, nn.Module) else start
    state = {key: value.detach() for key, value in state.items()}
    check_alike((parents.names[0], "start"), (parents.load(0), state))
    return state


def _accuracy(template: nn.Module, data: Tensor, labels: Tensor) -> Callable[[State], float]:
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
