"""``merge``: the one entry to every fusion method, for modules in memory or a pool on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.checks import check_finite, start_of
from fedmerge.merging.images import Given, collected, fitting
from fedmerge.merging.matching.repair import corrected
from fedmerge.merging.methods import FUSION, Context
from fedmerge.merging.neurons.statistics import Statistics
from fedmerge.merging.parents import Parents
from fedmerge.models.copies import faithful, fill, several
from fedmerge.models.devices import checked_device
from fedmerge.models.entries import entries, kinds
from fedmerge.models.outputs import logits_of
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import BatchNormPolicy, State, check_policy, non_finite
from fedmerge.registry import Needs
from fedmerge.schema.typed import check_arguments
from fedmerge.tasks import MULTICLASS

ENSEMBLE = "ensemble"  # the names of methods that keep all models begin with it


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
    data: Given | None = None,
    labels: Tensor | Sequence[int] | None = None,
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

    models: networks of one architecture, also inside ``DataParallel`` or ``torch.compile``; the merged model
    is such a network itself. What a merge does not average (attributes, buffers that are not saved, integers)
    must be the same in all (``models.sources``); ensembles keep each model's own. Reparametrised weights are
    merged as ``models.plain`` says. What outputs mean is the networks' mark (``fedmerge.tasks.mark``), which
    all must have alike. data: fusion images N x C x H x W as the models take them, or a loader, a dataset or
    a list (``images.collected``). labels: N class indices; of several findings an image N x F of 0 and 1.
    Together they give methods that validate a score (accuracy on them, or their task's), unless ``score``
    (state -> number, higher is better) is given. names, examples: one name and one number of training images
    a model. start: the model, or its state, from which all were trained (task vectors); of a model its saved
    entries alone count. statistics: answers with sums over images that lie elsewhere, in place of ``data``.
    into: a module of the architecture to be made, where models differ in width, or in what is not averaged.
    after: ``batch-norm`` re-estimates running statistics on ``data``, ``repair`` rescales every channel to
    the parents' statistics. batch_norm: how running statistics are merged (``average``, ``mixture`` of
    moments, ``first``). device: where to compute. options: the method's own, see ``fedmerge methods``.

    Raises FedMergeError for an unknown method, option, policy or device, an unmet need, models that are not
    alike, images that they do not take, a score that is no number, weights or results that are not finite
    (with the tensor's name).

    >>> fused = merge([net_a, net_b], "kf", data=x).model            # doctest: +SKIP
    """
    models = models if isinstance(models, ModelPool) else several(models)
    check_arguments(merge, {"score": score, "statistics": statistics, "seed": seed}, "merge")
    check_arguments(merge, {"names": names, "after": after, "batch_norm": batch_norm}, "merge")
    registered = FUSION[method]
    checked = registered.check(options)
    parents = Parents.of(models, names, examples, into=into, any_width=registered.any_width)
    if not method.startswith(ENSEMBLE) and "mean" not in kinds(parents.load(0)).values():
        raise FedMergeError(f"'{parents.names[0]}' has no weights, so there is nothing to merge.")
    if registered.needs.individual_models:  # where only a sum is needed, the sum shows what is not finite
        check_finite(parents)
    check_policy(batch_norm)
    images, classes = collected(data, labels)
    images = fitting(parents, images, classes, each=registered.any_width)
    context = Context(
        score=_scores(parents, score, images, classes),
        example=None if images is None else images[:2],
        batch_norm=batch_norm,
        seed=seed,
        data=images,
        labels=classes,
        statistics=statistics,
        start=start_of(start, parents),
        device=checked_device(device),
        task=parents.task,
    )
    _check_needs(registered.name, registered.needs_with(options), context)
    if not registered.own_state:
        parents.agree()
    began = time.perf_counter()
    merged = registered.call(parents, context, **checked)
    merged = corrected(merged, after, parents, context)
    model = merged.model
    if not method.startswith(ENSEMBLE):
        _check_result(method, model)
        model = parents.finished(model, merged.fitted)
    seconds = time.perf_counter() - began
    return MergeResult(model, method, merged.coefficients, merged.decisions, seconds, merged.forward_passes)


def _check_needs(method: str, needs: Needs, context: Context) -> None:
    if needs.fusion_labels and not context.task.class_outputs:
        raise FedMergeError(
            f"method '{method}' with these options attributes each fusion image's class to neurons, but task "
            f"{context.task.name} has no output for each class: take attribution: uniform."
        )
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


def _scores(
    parents: Parents, given: Callable[[State], float] | None, images: Tensor | None, labels: Tensor | None
) -> Callable[[State], float] | None:
    """The score of a candidate state: as given, of the model as the caller has it; or accuracy on images."""
    if given is not None:
        return _number(
            given if parents.plain_states else lambda state: given(_as_given(parents, state).state_dict())
        )
    if images is None or labels is None:
        return None
    return _accuracy(parents, images, labels)


def _number(score: Callable[[State], Any]) -> Callable[[State], float]:
    """The score as a float. Raises FedMergeError where it is no number, or NaN, which has no order."""

    def checked(state: State) -> float:
        value = score(state)
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise FedMergeError(
                f"score= gave a {type(value).__name__}, not one number for a state."
            ) from None
        if math.isnan(number):
            raise FedMergeError(
                "score= gave NaN, which is neither better nor worse than another score: give a number, -inf "
                "for what must not be taken."
            )
        return number

    return checked


def _as_given(parents: Parents, state: State) -> nn.Module:
    return parents.finished(parents.module(state), fitted=False)


def _accuracy(parents: Parents, data: Tensor, labels: Tensor) -> Callable[[State], float]:
    module, task = faithful(parents.template), parents.task
    device = next(module.parameters(), data).device

    @torch.no_grad()
    def score(state: State) -> float:
        network = _as_given(parents, state) if parents.reparametrised else fill(module, state)
        if task is not MULTICLASS:
            found = task.score(
                torch.cat([logits_of(network(x.to(device))).cpu() for x in data.split(256)]), labels
            )
            if math.isnan(found):
                raise FedMergeError(
                    f"{task.headline} is not defined on labels= of one kind: give images of two kinds, such "
                    "as with and without a finding, or score= of your own."
                )
            return found
        hits = sum(
            int((logits_of(network(x.to(device))).argmax(1) == y.to(device)).sum())
            for x, y in zip(data.split(256), labels.split(256), strict=True)
        )
        return hits / len(labels)

    return score


def _check_result(method: str, model: nn.Module) -> None:
    broken = non_finite(entries(model))
    if broken:
        raise FedMergeError(
            f"method '{method}' gives NaN or infinity in '{broken[0]}' ({len(broken)} entries), though the "
            "models hold none: convert them to float32, or take smaller weights or more images."
        )
