"""Logits and labels as they may be scored: of one form, of one length, and of one task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.tasks.task import Task


def scored_pair(logits: Any, labels: Any, task: Task) -> tuple[Tensor, Tensor]:
    """Return logits, N x D in their own type, and labels, int64, N or N x F; both on the CPU.

    logits: a tensor or array of real numbers. labels: one of whole numbers, of any type, or booleans.
    Raises FedMergeError where they are of another form or differ in number, for no image, and for labels that
    are not the task's (``label_fault``).
    """
    z = checked_logits(logits)
    y = _numbers(labels, "labels")
    if y.is_floating_point() and not bool((y == y.round()).all()):
        raise FedMergeError("labels hold numbers that are not whole: give one class number an image.")
    if y.ndim and len(y) != len(z):
        raise FedMergeError(f"there are logits of {len(z)} images but labels of {len(y)}: give as many.")
    y = y.long()
    if fault := label_fault(task, y, z.shape[1]):
        raise FedMergeError(f"labels {fault}.")
    return z, y


def checked_logits(logits: Any) -> Tensor:
    """Return logits as a tensor N x D on the CPU, without a gradient. Raises FedMergeError for others."""
    z = _numbers(logits, "logits")
    if z.ndim != 2 or z.numel() == 0:
        raise FedMergeError(
            f"logits are of shape {tuple(z.shape)}: give a row an image, N x D, and at least one image."
        )
    return z


def label_fault(task: Task, labels: Tensor, width: int) -> str:
    """Say what is wrong with labels (whole numbers, at least one) for a head of so many outputs, or nothing.

    The text follows the word "labels".
    """
    if labels.ndim != 1 + task.many:
        form = "N x F, a row of 0 and 1" if task.many else "N, one class"
        return f"are of shape {tuple(labels.shape)}, but task {task.name} has them as {form} an image"
    lowest, highest = int(labels.min()), int(labels.max())
    if task.many and not 0 <= lowest <= highest <= 1:
        return f"hold the numbers {lowest} to {highest}, but a finding is 0 or 1, absent or present"
    if lowest < 0 or task.lacking(task.needed(labels), width):
        given = f"hold the classes {lowest} to {highest}"
        if task.class_outputs:
            return f"{given}, but there are {width} outputs: number the classes from 0 to {width - 1}"
        return f"{given}, which outputs of task {task.name}, {width} in number, cannot say"
    return ""


def _numbers(values: Any, what: str) -> Tensor:
    try:
        found = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise FedMergeError(f"{what} are a {type(values).__name__}, not a tensor of numbers.") from None
    if found.is_complex():
        raise FedMergeError(f"{what} are complex numbers, which have no order.")
    return found
