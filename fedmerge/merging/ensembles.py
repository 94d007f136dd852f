"""Ensembles, the reference a merged model is held against: M forward passes for each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.averages import Weights, mean_of, normalised, parent_weights
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.merging.soups import greedy, greedy_v1, greedy_v2
from fedmerge.models.heads import apply_head, features, find_head
from fedmerge.models.outputs import logits_of
from fedmerge.models.plain import dressed
from fedmerge.models.sources import check_sources
from fedmerge.registry import Needs
from fedmerge.tasks import mark, task_of

PAPER = "Rethinking Weight-Averaged Model-merging, arXiv 2411.09263"
SOUPS = {"greedy": greedy, "greedy-v1": greedy_v1, "greedy-v2": greedy_v2}


class LogitEnsemble(nn.Module):
    """z(x) = sum_m a_m z_m(x), a_m = 1/M by default; input N x C x H x W, output N x classes."""

    def __init__(self, models: list[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.weights = _shares(models, weights)

    def forward(self, x: Tensor) -> Tensor:
        return _mean(torch.stack([logits_of(model(x), model) for model in self.models]), self.weights)


class ProbabilityEnsemble(nn.Module):
    """z(x) = log sum_m a_m softmax(z_m(x)): softmax(z) is the mean probability; a_m not below zero.

    Of models of another task, z means the mean of their distributions: log-odds of the mean of sigmoids.
    """

    def __init__(self, models: list[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.weights = _shares(models, weights)
        self.task = task_of(models[0])

    def forward(self, x: Tensor) -> Tensor:
        outputs = [logits_of(model(x), model) for model in self.models]
        logs = torch.stack([self.task.log_p(_wide(logits)) for logits in outputs])
        shares = torch.tensor(self.weights, dtype=logs.dtype, device=logs.device)
        mean = (logs + shares.log().view(-1, *[1] * (logs.ndim - 1))).logsumexp(0)
        return self.task.logits(mean).to(outputs[0].dtype)


class FeatureEnsemble(nn.Module):
    """z(x) = h(sum_m a_m f_m(x)), with f_m the input of model m's head and h the head of ``head_model``."""

    def __init__(
        self,
        models: list[nn.Module],
        head_model: nn.Module,
        head: str,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.head_model = head_model
        self.head = head
        self.weights = _shares(models, weights)

    def forward(self, x: Tensor) -> Tensor:
        inputs = torch.stack([features(model, self.head, x) for model in self.models])
        return apply_head(self.head_model, self.head, _mean(inputs, self.weights))


@FUSION.method(
    "ensemble-logits",
    title="Logit ensemble",
    paper=PAPER,
    needs=Needs(individual_models=True),
    own_state=True,
)
def ensemble_logits(parents: Parents, context: Context, *, weights: Weights = "uniform") -> Merged:
    """Average the logits of all models (no softmax before the mean); a reference, not a merge.

    ``weights``: ``uniform``, ``samples`` (by training images), or one number a model.
    """
    shares = normalised(parent_weights(parents, weights))
    return _merged(parents, LogitEnsemble(_members(parents, context), shares), shares)


@FUSION.method(
    "ensemble-probabilities",
    title="Probability ensemble",
    paper=PAPER,
    needs=Needs(individual_models=True),
    own_state=True,
)
def ensemble_probabilities(parents: Parents, context: Context, *, weights: Weights = "uniform") -> Merged:
    """Average the probabilities of all models: p(x) = sum_m a_m softmax(z_m(x)); a reference, not a merge.

    The output is log p, so that its softmax is p; of other tasks, logits that mean p. ``weights`` as in
    ``ensemble-logits``, none below zero. A model that is sure outvotes unsure ones less than in the mean of
    logits, which is a geometric mean.
    """
    shares = normalised(parent_weights(parents, weights))
    if min(shares) < 0:
        raise FedMergeError("ensemble-probabilities takes no weight below zero: a probability would be, too.")
    return _merged(parents, ProbabilityEnsemble(_members(parents, context), shares), shares)


@FUSION.method(
    "ensemble-features",
    title="Feature ensemble",
    paper=PAPER,
    needs=Needs(individual_models=True, features=True),
    own_state=True,
)
def ensemble_features(
    parents: Parents,
    context: Context,
    *,
    head: Literal["mean", "first"] = "mean",
    weights: Weights = "uniform",
) -> Merged:
    """Average the features before the head, then apply the averaged head, or the first model's own.

    The mean of M features of M differently trained encoders mixes coordinates that need not mean the
    same; models from one start are assumed. ``weights`` as in ``ensemble-logits``, for features and head.
    """
    if context.example is None:
        raise FedMergeError("ensemble-features must see one batch to find the head: pass data=.")
    raw = parent_weights(parents, weights)
    models = _members(parents, context)
    name = find_head(models[0], context.example)
    head_model = models[0]
    if head == "mean":
        check_sources(parents.names, [model.get_submodule(name) for model in models])
        head_model = _averaged(parents, context, raw)
    shares = normalised(raw)
    return _merged(parents, FeatureEnsemble(models, head_model, name, shares), shares)


@FUSION.method(
    "ensemble-greedy",
    title="Greedy ensemble",
    paper=PAPER,
    needs=Needs(individual_models=True, score=True),
    also=lambda options: Needs(features=options["of"] == "features"),
)
def ensemble_greedy(
    parents: Parents,
    context: Context,
    *,
    of: Literal["logits", "probabilities", "features"] = "logits",
    soup: Literal["greedy", "greedy-v1", "greedy-v2"] = "greedy-v2",
) -> Merged:
    """Choose members by a greedy soup, then ensemble those members, equally weighted.

    ``of``: what is averaged; features go through the members' averaged head. ``soup``: how members are
    chosen; ``greedy-v2`` is the paper's. ``decisions`` is the soup's log. The soup scores averaged weights,
    not the ensemble: a model that fits no soup is left out even where its vote would help.
    """
    chosen = SOUPS[soup](parents, context)
    members = [i for i, name in enumerate(parents.names) if chosen.coefficients[name] > 0]
    few = parents.among(members)
    ensemble = {
        "logits": ensemble_logits,
        "probabilities": ensemble_probabilities,
        "features": ensemble_features,
    }[of](few, context)
    coefficients = {name: ensemble.coefficients.get(name, 0.0) for name in parents.names}
    return Merged(ensemble.model, coefficients, chosen.decisions, len(few))


def _members(parents: Parents, context: Context) -> list[nn.Module]:
    """The models themselves, copied: each keeps its own buffers and attributes, checked on two images."""
    return [parents.member(index, context.example) for index in range(len(parents))]


def _averaged(parents: Parents, context: Context, weights: Sequence[float]) -> nn.Module:
    """The mean of all models' weights in the first one, of which its head is used and no more."""
    state = mean_of(parents, context, weights, list(parents.load(0)))
    module = parents.member(0, None)
    return dressed(module, state)


def _merged(parents: Parents, model: nn.Module, shares: list[float]) -> Merged:
    coefficients = dict(zip(parents.names, shares, strict=True))
    mark(model, parents.task.name)
    return Merged(model.eval(), coefficients, forward_passes=len(parents))


def _shares(models: list[nn.Module], weights: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(normalised([1.0] * len(models) if weights is None else weights))


def _mean(stacked: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The weighted mean over dimension 0, in the networks' precision; half precision is summed in float32."""
    dtype, stacked = stacked.dtype, _wide(stacked)
    if len(set(shares)) == 1:
        return stacked.mean(0).to(dtype)
    weights = torch.tensor(shares, dtype=stacked.dtype, device=stacked.device)
    return torch.tensordot(weights, stacked, dims=1).to(dtype)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
