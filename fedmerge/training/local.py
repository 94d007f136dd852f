"""One site's training: its images stay on the device, and a fixed seed gives the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from fedmerge.errors import FedMergeError
from fedmerge.models.feeding import batches, on_device
from fedmerge.models.inputs import only
from fedmerge.models.modes import training
from fedmerge.models.narrow_strides import sound_strides
from fedmerge.models.outputs import logits_of
from fedmerge.seeding import Draws, seeded_with
from fedmerge.tasks import task_of
from fedmerge.training.augment import augment
from fedmerge.training.checks import check_trainable
from fedmerge.training.correction import Correction
from fedmerge.training.inmerge import InMerge
from fedmerge.training.objective import Objective
from fedmerge.training.optimizers import eager
from fedmerge.training.options import TrainingOptions
from fedmerge.training.proximal import Proximal
from fedmerge.training.recipe import parameter_groups, recipe_of
from fedmerge.training.schedule import learning_rates


class TrainingDiverged(FedMergeError):
    """The training loss became infinite or not a number."""


@dataclass(frozen=True)
class FitResult:
    """What a call of ``fit`` did.

    losses, accuracies: one value per epoch, means over its images (and findings), taken on the fly (training
    mode, augmented images, label smoothing included in the loss). seconds: wall clock. examples: images seen,
    over all epochs. merges: filters merged by InMerge, by layer name; empty without it.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float
    steps: int
    examples: int
    merges: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """One call's part in a longer training, such as a hospital's in the rounds of a federation.

    span: the part of the learning-rate schedule that it covers. correction: added to every gradient of the
    parameters of these names, before the optimizer's step.
    """

    span: tuple[float, float] = (0.0, 1.0)
    correction: Mapping[str, Tensor] | None = None


WHOLE = Segment()


def fit(
    model: nn.Module,
    split_images: Tensor,
    labels: Tensor,
    options: TrainingOptions,
    *,
    normalise: Callable[[Tensor], Tensor],
    draws: Draws,
    segment: Segment = WHOLE,
    progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Train ``model`` in place with its task's loss for ``options.epochs`` passes over the images.

    The task is the model's (``fedmerge.tasks.task_of``): cross entropy of one class an image, where the model
    is not marked with another. split_images: uint8, N x C x H x W; labels: int64, N, or of several findings
    an image 0 and 1, N x F. They are copied to the model's device once, but stored images are read batch by
    batch (``models.feeding``); each batch is augmented (as uint8) and then normalised there. draws: from what
    the order of the images, the augmentations, dropout and InMerge draw. segment: the part of a longer
    training that this call is. A last batch of a single image is joined to the one before it, because batch
    norm cannot normalise one value. The model stays on its device, and is left in the mode it came in.
    FedProx's term holds the weights near those the model came with; it is not in the losses. progress: called
    with (steps done, steps in all) after each step.

    Raises FedMergeError for unusable images, labels or batch size, and TrainingDiverged, at the end of the
    epoch, where a loss was not finite.
    """
    started = time.perf_counter()
    where = f"site '{draws.site}'" if draws.site else "the training set"
    check_trainable(model, split_images, labels, options.batch_size, where)
    device = next(model.parameters()).device
    images, targets = on_device(split_images, device), labels.to(device=device, dtype=torch.int64)
    task = task_of(model)
    objective = Objective(task, labels, options, where)
    sizes = batch_sizes(len(images), options.batch_size)
    rates = learning_rates(options.schedule, options.lr, options.epochs * len(sizes), segment.span)
    optimizer = make_optimizer(model, options)
    pulls: list[Proximal | Correction] = []
    pulls += [Proximal(model, options.proximal)] if options.proximal else []
    pulls += [Correction(model, segment.correction)] if segment.correction else []
    inmerge = None
    if options.inmerge is not None:
        inmerge = InMerge(model, **options.inmerge.model_dump(), seed=draws.derive("inmerge")).attach(
            optimizer
        )
    order, changes = draws.generator("order"), draws.generator("augment")
    shares = torch.tensor(sizes, dtype=torch.float64) / len(images)
    step_losses = torch.empty(len(sizes), device=device)
    losses, accuracies = [], []

    example = only(normalise, slice(2))(images[:2].to(device)) if options.recipe != "finetune" else None
    with (
        recipe_of(model, options, example) as recipe,
        training(model),
        sound_strides(model),
        seeded_with(draws.derive("dropout")),
    ):
        for epoch in range(options.epochs):
            if recipe is not None:
                recipe.begin(epoch)
            hits = torch.zeros((), dtype=torch.int64, device=device)
            shuffled = torch.randperm(len(images), generator=order)
            for step, (chosen, seen) in enumerate(batches(images, shuffled.split(sizes), device)):
                done = epoch * len(sizes) + step
                _set_rate(optimizer, rates[done])
                batch = only(normalise, chosen)(augment(seen, options.augment, changes))
                target = targets[chosen.to(device)]
                loss, logits = _step(model, optimizer, pulls, batch, target, options, objective)
                step_losses[step] = loss
                hits += (task.predicted(logits) == target).sum()
                if progress is not None:
                    progress(done + 1, len(rates))
            losses.append(float(_finite(step_losses, where, epoch) @ shares))
            accuracies.append(int(hits) / labels.numel())

    merges = inmerge.merges if inmerge is not None else {}
    seconds = time.perf_counter() - started
    examples = options.epochs * len(images)
    return FitResult(tuple(losses), tuple(accuracies), seconds, len(rates), examples, merges)


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches; a last batch of one image is joined to the one before it."""
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    return [*sizes[:-2], batch_size + 1] if rest == 1 and full else sizes


def make_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """The optimizer of ``options`` over the model's trainable parameters; momentum starts at zero."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: Any = parameters
    if options.first_layer_rate != 1:
        groups = parameter_groups(model, options.first_layer_rate)
    if not parameters:
        raise FedMergeError("the model has no trainable parameter: set requires_grad on those to train.")
    late = options.recipe == "lp-ft"  # the fused kernel cannot take up parameters in the middle
    fused = not late and all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if options.optimizer == "adamw":
        return eager(AdamW)(groups, lr=options.lr, weight_decay=options.weight_decay, fused=fused)
    return eager(SGD)(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=fused,
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pulls: Sequence[Proximal | Correction],
    batch: Tensor,
    target: Tensor,
    options: TrainingOptions,
    objective: Objective,
) -> tuple[Tensor, Tensor]:
    amp = options.amp == "auto" and batch.device.type == "cuda"
    with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=amp):
        logits = logits_of(model(batch), model)
        loss = objective(logits, target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for each in pulls:
        each.pull()
    optimizer.step()
    return loss.detach(), logits.detach()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)


def _finite(step_losses: Tensor, where: str, epoch: int) -> Tensor:
    """The epoch's losses as float64 on the CPU (the one wait for the device), if all are finite."""
    losses = step_losses.double().cpu()
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise TrainingDiverged(
            f"training diverged at {where}: the loss is {losses[bad[0, 0]].item()} in epoch {epoch + 1}, "
            f"step {int(bad[0, 0]) + 1}; lower training.lr."
        )
    return losses
