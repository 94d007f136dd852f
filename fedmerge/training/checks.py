"""Checks before a training starts: what is refused, in sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.tasks import Task, task_of


def needs_batch_statistics(model: nn.Module) -> bool:
    """Whether the model has a batch norm, which cannot be trained on batches of one image."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def check_trainable(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, where: str) -> None:
    """Raise FedMergeError where ``fit`` could not train on these images and labels."""
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise FedMergeError(
            f"{where} has images of shape {tuple(images.shape)} and type {images.dtype}: "
            "give uint8 images of shape N x C x H x W."
        )
    count = len(images)
    if count == 0:
        raise FedMergeError(f"{where} has no training images: give it some, or leave it out of the training.")
    many = task_of(model).many
    if labels.shape[:1] != (count,) or labels.ndim != 1 + many or labels.is_floating_point():
        wanted = "a row of 0 and 1 per image" if many else "one integer label per image"
        raise FedMergeError(
            f"{where} has {count} images and labels of shape {tuple(labels.shape)} and type {labels.dtype}: "
            f"give {wanted}."
        )
    if int(labels.min()) < 0:
        raise FedMergeError(f"{where} has label {int(labels.min())}: number the classes from 0.")
    if needs_batch_statistics(model) and min(count, batch_size) < 2:
        cure = "set training.batch_size to at least 2" if count > 1 else "give it at least 2 images"
        raise FedMergeError(
            f"{where} would train a network with batch norm on batches of one image, whose statistics are "
            f"undefined: {cure}."
        )
    if batch_size > count:
        raise FedMergeError(
            f"{where} has {count} training image{'s' * (count > 1)}, fewer than "
            f"training.batch_size {batch_size}: lower it to at most {count}."
        )


def check_classes(task: Task, needed: int, logits: Tensor, where: str) -> None:
    """Raise FedMergeError where logits (N x D) have fewer outputs than the labels need, or not as many."""
    if lacking := task.lacking(needed, logits.shape[1]):
        raise FedMergeError(f"{where} {lacking}: correct the labels or build the model for them.")
