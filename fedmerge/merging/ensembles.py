"""Ensembles, the reference a merged model is held against: M forward passes for each prediction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.methods import FUSION, Context, Merged, Parents, uniform
from fedmerge.models.heads import apply_head, features, find_head
from fedmerge.models.state import average
from fedmerge.registry import Needs


class LogitEnsemble(nn.Module):
    """z(x) = (1/M) sum_m z_m(x); input N x C x H x W, output N x classes."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).mean(0)


class FeatureEnsemble(nn.Module):
    """z(x) = h((1/M) sum_m f_m(x)), with f_m the input of model m's head and h the head of ``head_model``."""

    def __init__(self, models: list[nn.Module], head_model: nn.Module, head: str) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.head_model = head_model
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.stack([features(model, self.head, x) for model in self.models]).mean(0)
        return apply_head(self.head_model, self.head, mean)


@FUSION.method(
    "ensemble-logits",
    title="Logit ensemble",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True),
)
def ensemble_logits(parents: Parents, context: Context) -> Merged:
    """Average the logits of all models (no softmax before the mean); a reference, not a merge."""
    model = LogitEnsemble([parents.module(state) for state in parents.states()]).eval()
    return Merged(model, uniform(parents), forward_passes=len(parents))


@FUSION.method(
    "ensemble-features",
    title="Feature ensemble",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, features=True),
)
def ensemble_features(
    parents: Parents, context: Context, *, head: Literal["mean", "first"] = "mean"
) -> Merged:
    """Average the features before the head, then apply the averaged head, or the first model's own.

    The mean of M features of M differently trained encoders mixes coordinates that need not mean the
    same; models from one start are assumed.
    """
    if context.example is None:
        raise FedMergeError("ensemble-features must see one batch to find the head: pass data=.")
    models = [parents.module(state) for state in parents.states()]
    head_model = models[0]
    if head == "mean":
        head_model = parents.module(average(parents.states(), None, batch_norm=context.batch_norm))
    name = find_head(head_model, context.example)
    return Merged(
        FeatureEnsemble(models, head_model, name).eval(), uniform(parents), forward_passes=len(parents)
    )
