"""AdaMerging, online: merging coefficients learned by entropy minimisation, one step a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import faithful
from fedmerge.models.entries import running_pairs
from fedmerge.models.plain import dressed, reparametrised
from fedmerge.models.state import State, average, state_hash
from fedmerge.models.wide import wide, wide_dtype
from fedmerge.registry import Needs
from fedmerge.tasks import task_of
from fedmerge.testtime.baselines.adapted import Adapted, UnderAdam
from fedmerge.testtime.baselines.start import (
    MergedBatchNorm,
    Prediction,
    adapt,
    ask,
    check_step,
    nats,
)
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart
from fedmerge.testtime.originals import Originals, agreeing, networks


@TESTTIME.method(
    "adamerging",
    title="AdaMerging, online",
    paper="AdaMerging: adaptive model merging for multi-task learning, arXiv 2310.02575",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class AdaMerging(UnderAdam):
    """Learn merging coefficients on the stream by minimising the entropy of the predictions.

    For every layer l of M sources (``"layer-wise"``), or once for the whole network (``"task-wise"``),

        theta^l = mean^l + sum_i lambda_i^l (theta_i^l - mean^l)

    with lambda = 1/M at first (mean merging), held within [0, 1]. Each batch takes one Adam step on the mean
    entropy of its predictions; the gradient reaches lambda only, and lambda stays for the next batch.

    learning_rate: of Adam; steps: a batch. predict: ``"before"``: with the coefficients met by the batch;
    ``"after"``: with those its step led to, one more forward pass.
    batch_norm: running statistics are merged by lambda / sum lambda (1/M where all are 0), which is never
    negative, variances as ``"mixture"`` of moments or plain ``"average"``; no gradient passes through them
    (batch norm has none in evaluation mode).

    Departures: the task vectors start at the mean, not at the common start, which a site need not have (the
    same wherever the coefficients sum to one, but the step's length along their sum is lost); one step a
    batch instead of 500 over the test set; a layer is a module's own entries, where the reference has one
    coefficient a tensor. Learning rate 1e-3, Adam, clamp and loss are the reference's.

    Cost: ``steps`` forward and ``steps`` backward passes a batch. Memory: M models. ``coefficients`` is
    lambda, layers x M, ``layers`` their names. Raises FedMergeError for no model, models of different
    architectures, unfit options and batches, and logits that are not finite.
    """

    never_narrowed = ("coefficients",)

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        granularity: Literal["layer-wise", "task-wise"] = "layer-wise",
        learning_rate: float = 1e-3,
        steps: int = 1,
        predict: Prediction = "before",
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        super().__init__()
        check_step(learning_rate, steps, predict)
        if granularity not in ("layer-wise", "task-wise"):
            raise FedMergeError(f"unknown granularity '{granularity}'. Allowed: layer-wise, task-wise.")
        if batch_norm not in ("mixture", "average"):
            raise FedMergeError(f"unknown batch-norm policy '{batch_norm}'. Allowed: average, mixture.")
        given = networks(models)
        found, states = agreeing(given)
        if any(map(reparametrised, given)):
            dressed(given[0], average(states), exactly=True)
        self.steps, self.predict = steps, predict
        self.batch_norm = batch_norm
        self.originals = Originals(given, merged=True)
        self.model = faithful(found[0]).requires_grad_(False)
        self.task = task_of(self.model)
        own = _own_keys(self.model)  # one name for a module that has two
        self.keys = [key for key, value in states[0].items() if value.is_floating_point() and key in own]
        for number, key in enumerate(self.keys):
            stack = torch.stack([state[key].detach() for state in states])
            self.register_buffer(f"stack{number}", stack, persistent=False)
        names = [_layer(key) for key in self.keys] if granularity == "layer-wise" else [""]
        self.layers = list(dict.fromkeys(names))
        device = next(self.model.parameters(), torch.empty(0)).device
        start = torch.full((len(self.layers), len(given)), 1 / len(given), device=device)
        self.coefficients = nn.Parameter(start)
        self.adapted = Adapted(self.model, [self.coefficients], learning_rate, bounds=(0, 1))

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C, take the batch's step, and leave the coefficients for the next one."""
        logits = adapt(
            self,
            lambda: ask(lambda x: functional_call(self.model, self.merged(), (x,), tie_weights=False), batch),
            lambda logits: nats(logits, self.task).mean(),
            self.adapted,
            self.steps,
            self.predict,
        )
        return logits, None

    def merged(self) -> State:
        """The merged state at the present coefficients; all but running statistics is differentiable."""
        stacks = {key: getattr(self, f"stack{number}") for number, key in enumerate(self.keys)}
        rows = {key: self.coefficients[self._row(key)] for key in self.keys}
        spare = {key: (1 - row.sum()) / len(row) for key, row in rows.items()}
        state = {key: _weighted(rows[key] + spare[key], stack) for key, stack in stacks.items()}
        for mean, var in running_pairs(self.keys):
            share = _shares(rows[mean].detach())
            means, variances = wide(stacks[mean]), wide(stacks[var])
            centre = _weighted(share, means)
            spread = (means - centre).square() if self.batch_norm == "mixture" else 0.0
            most, dtype = torch.finfo(stacks[var].dtype).max, stacks[var].dtype
            state[mean] = centre.to(dtype)
            state[var] = _weighted(share, variances + spread).clamp(max=most).to(dtype)
        return state

    def _row(self, key: str) -> int:
        return 0 if self.layers == [""] else self.layers.index(_layer(key))

    def fingerprint(self) -> str:
        """The hash of the sources."""
        return state_hash({key: getattr(self, f"stack{number}") for number, key in enumerate(self.keys)})


def _layer(key: str) -> str:
    """The module an entry belongs to; an entry of the network itself is a layer of its own."""
    return key.rpartition(".")[0] or key


def _own_keys(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in (*module._parameters, *module._buffers)
    }


def _weighted(weights: Tensor, stack: Tensor) -> Tensor:
    """``sum_i weights_i stack_i``: weights M, stack M x ... ; added in float32 at least."""
    found = torch.tensordot(weights.to(wide_dtype(stack.dtype)), wide(stack), dims=1)
    return found.to(stack.dtype)


def _shares(row: Tensor) -> Tensor:
    """Coefficients divided by their sum; 1/M each where all are zero."""
    total = row.sum()
    return row / total if bool(total > 0) else torch.full_like(row, 1 / len(row))
