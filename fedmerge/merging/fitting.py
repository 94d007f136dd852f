"""Fit some tensors to targets on the fusion images: Adam, stopped early, the best weights restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.schema.typed import check_types
from fedmerge.tasks import MULTICLASS, Task

Loss = Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class Descent:
    """How to descend: Adam at learning rate lr, weight decay added to the gradient; patience in epochs."""

    lr: float = 1e-3
    epochs: int = 100
    patience: int = 15
    batch_size: int = 32
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_types(self)


DESCENT = Descent()


@dataclass(frozen=True)
class Fit:
    """How a fit went: epochs run, the epoch whose weights were kept (0: the start), its validation loss."""

    epochs: int
    best: int
    loss: float


def split(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` images cut at random: four fifths to fit, one fifth (at least one) to validate."""
    if count < 2:
        raise FedMergeError("there is one fusion image: give at least two, one to fit and one to validate.")
    order = torch.randperm(count, generator=rng)
    held = max(1, count // 5)
    return order[held:], order[:held]


def descend(
    parameters: Sequence[Tensor],
    loss: Loss,
    count: int,
    descent: Descent,
    *,
    rng: torch.Generator,
    buffers: Sequence[Tensor] = (),
) -> Fit:
    """Minimise ``loss(indices, training)``, a mean over images, over leaf tensors, in place.

    The start counts as epoch 0, so the result is never worse on the held-out fifth than the start.
    buffers: tensors that the loss changes by itself while training; they are restored with the best weights.
    An epoch whose loss is not a number is no improvement. Every draw comes from ``rng``.
    """
    fitted, held = split(count, rng)
    kept = [*parameters, *buffers]
    optimizer = torch.optim.Adam(
        [p.requires_grad_() for p in parameters], lr=descent.lr, weight_decay=descent.weight_decay
    )
    best, best_epoch, epoch = _mean(loss, held, descent.batch_size), 0, 0
    saved = [t.detach().clone() for t in kept]
    for epoch in range(1, descent.epochs + 1):
        order = fitted[torch.randperm(len(fitted), generator=rng)]
        with torch.enable_grad():
            for batch in order.split(descent.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss(batch, True).backward()
                optimizer.step()
        value = _mean(loss, held, descent.batch_size)
        if value < best or best != best:
            best, best_epoch = value, epoch
            saved = [t.detach().clone() for t in kept]
        elif epoch - best_epoch >= descent.patience:
            break
    with torch.no_grad():
        for tensor, best_value in zip(kept, saved, strict=True):
            tensor.copy_(best_value)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return Fit(epoch, best_epoch, best)


def divergence(logits: Tensor, probabilities: Tensor, temperature: float, task: Task = MULTICLASS) -> Tensor:
    """``T^2 mean_n KL(p_n | softmax(z_n / T))`` in nats: never negative, zero where both are equal.

    logits z and probabilities p: N x C. T^2 keeps the gradient's size (Hinton et al., arXiv 1503.02531). Of
    another task p and softmax(z / T) are its distributions (``Task.p``), summed over findings.
    """
    log_q = task.log_p(logits / temperature)
    return temperature**2 * functional.kl_div(log_q, probabilities, reduction="batchmean").clamp(min=0)


def soft_targets(logits: Sequence[Tensor], temperature: float, task: Task = MULTICLASS) -> Tensor:
    """``(1/M) sum_m softmax(z_m / T)``: N x C from M times N x C; of another task, its distributions."""
    return torch.stack([task.p(z.double() / temperature) for z in logits]).mean(0)


@torch.no_grad()
def _mean(loss: Loss, indices: Tensor, batch_size: int) -> float:
    total = sum(float(loss(batch, False)) * len(batch) for batch in indices.split(batch_size))
    return total / len(indices)


def in_float32(module: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a module of half precision and its images in float32, in which gradients do not vanish; any
    other as it is."""
    half = (torch.float16, torch.bfloat16)
    if not any(value.dtype in half for value in module.parameters()):
        return module, images
    return module.float(), images.float() if images.is_floating_point() else images
