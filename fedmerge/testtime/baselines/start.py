"""Shared by the methods of this folder: the mean-merged model they start from, and its logits.

Passes are counted in one unit everywhere: one model's encoder over one batch. Finding the head, once, on two
images of the first batch, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import several
from fedmerge.models.entries import entries
from fedmerge.models.heads import check_head, find_head
from fedmerge.models.outputs import logits_of
from fedmerge.models.plain import dressed
from fedmerge.models.state import average, state_hash
from fedmerge.models.wide import wide
from fedmerge.tasks import MULTICLASS, Task, task_of
from fedmerge.testtime.baselines.adapted import Adapted
from fedmerge.testtime.batch import taking
from fedmerge.testtime.entropy import sample_entropies
from fedmerge.testtime.methods import check_fits
from fedmerge.testtime.online import Online
from fedmerge.testtime.originals import Originals, agreeing, networks

MergedBatchNorm = Literal["mixture", "average"]
Prediction = Literal["before", "after"]


class Start(Online):
    """A method that starts from the mean-merged model, ``model``."""

    def __init__(self, models: Sequence[nn.Module], batch_norm: MergedBatchNorm) -> None:
        super().__init__()
        models = several(models)
        self.model = mean_merged(models, batch_norm)
        self.task = task_of(self.model)
        check_fits(type(self), self.task)
        self.originals = Originals(networks(models), merged=True)
        self.hash = state_hash(entries(self.model))

    def fingerprint(self) -> str:
        """The hash of the mean-merged model as it was at first, and the dtypes that it has now."""
        return " ".join([self.hash, *sorted({str(value.dtype) for value in self.model.parameters()})])


def mean_merged(models: Sequence[nn.Module], batch_norm: MergedBatchNorm) -> nn.Module:
    """A new network with the mean of the models' weights, in evaluation mode, no parameter trainable.

    theta = (1/M) sum_i theta_i, summed in float64; batch-norm variances by ``batch_norm`` (``"mixture"`` of
    moments or plain ``"average"``). One model alone, pooled training for instance, stays as it is, bit for
    bit. Weights under a reparametrisation are averaged as ``models.plain`` says. Raises FedMergeError for no
    model, and for models that cannot be merged (``originals.agreeing``).
    """
    if batch_norm not in ("mixture", "average"):
        raise FedMergeError(f"unknown batch-norm policy '{batch_norm}'. Allowed: average, mixture.")
    found = networks(models)
    _, states = agreeing(found)
    return dressed(found[0], average(states, batch_norm=batch_norm)).requires_grad_(False)


def ask(model: Callable[[Tensor], Any], batch: Tensor, name: str = "the adapted model") -> Tensor:
    """Return the logits N x C of ``model`` for a batch, in float32 or wider.

    Raises FedMergeError where the model cannot take the batch, and where its logits are not finite; both are
    raised before anything has been adapted to the batch.
    """
    with taking(batch, name):
        logits = wide(logits_of(model(batch), name).flatten(1))
    if not bool(logits.isfinite().all()):
        raise FedMergeError(
            f"{name} gives logits that are not finite on this batch; check its weights and the batch's "
            "normalisation, or reset() if it adapted too far."
        )
    return logits


def nats(logits: Tensor, task: Task = MULTICLASS) -> Tensor:
    """The entropy of each prediction in nats, logits (..., C) to (...); differentiable."""
    return sample_entropies(logits, task) * task.most_nats(logits.shape[-1])


def named_head(model: nn.Module, given: str | None, example: Tensor) -> str:
    """The name of the classification head: ``given``, checked, or the one found by running the model."""
    if given is None:
        return find_head(model, example)
    check_head(model, given, example)
    return given


def check_step(learning_rate: float, steps: int, predict: str) -> None:
    """Raise FedMergeError for a rate that is not a positive number, no step, or an unknown ``predict``."""
    if not 0 < learning_rate < math.inf:
        raise FedMergeError(f"learning_rate is {learning_rate}; it must be a number above 0.")
    if steps < 1:
        raise FedMergeError(f"steps is {steps}; it must be at least 1.")
    if predict not in ("before", "after"):
        raise FedMergeError(f"unknown time to predict '{predict}'. Allowed: before, after (the update).")


def adapt(
    node: Online,
    forward: Callable[[], Tensor],
    loss: Callable[[Tensor], Tensor],
    adapted: Adapted,
    steps: int,
    predict: Prediction,
) -> Tensor:
    """Take ``steps`` gradient steps on ``loss(forward())``; count passes on ``node``; return logits.

    ``"before"``: the logits of the last step's own forward pass, made before its update, so a batch costs
    ``steps`` forward and ``steps`` backward passes; ``"after"``: one more forward pass after it.
    """
    for _ in range(steps):
        with torch.enable_grad():
            logits = forward()
            node.forward_passes += 1
            adapted.step(loss(logits))
        node.backward_passes += 1
    if predict == "after":
        with torch.no_grad():
            logits = forward()
        node.forward_passes += 1
    adapted.settle()
    return logits.detach()
