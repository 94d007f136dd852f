"""The loss of one hospital's training: its task's, with the weights of classes or findings."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.tasks import Task
from fedmerge.training.checks import check_classes
from fedmerge.training.options import TrainingOptions


class Objective:
    """``objective(logits, labels)`` is the loss of a batch.

    labels: all of the hospital's, from which ``class_weights: balanced`` and ``sqrt`` follow. where: the
    hospital in words. A call raises FedMergeError where the network's outputs or the given weights do not
    fit the labels.
    """

    def __init__(self, task: Task, labels: Tensor, options: TrainingOptions, where: str) -> None:
        self.task, self.options, self.where = task, options, where
        self.labels, self.needed = labels, task.needed(labels)
        self.weights: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        check_classes(self.task, self.needed, logits, self.where)
        if self.options.class_weights != "none" and self.weights is None:
            self.weights = self._weights(logits.shape[1]).to(logits.device)
        return self.task.loss(logits, labels, self.options.label_smoothing, self.weights)

    def _weights(self, width: int) -> Tensor:
        """Return the weights for a head of so many outputs."""
        given = self.options.class_weights
        if isinstance(given, str):
            weights = self.task.balanced_weights(self.labels.cpu(), width)
            return weights.sqrt() if given == "sqrt" else weights
        check_weights(self.task, width, self.options)
        return torch.tensor(given)


def check_weights(task: Task, width: int, options: TrainingOptions, where: str = "training") -> None:
    """Raise FedMergeError where the loss of so many outputs has another number of weights than is given."""
    given, wanted = options.class_weights, task.weighed(width)
    if not isinstance(given, str) and len(given) != wanted:
        raise FedMergeError(
            f"{where}.class_weights has {len(given)} numbers, but task {task.name} has {wanted} here: give "
            f"{task.weighing}, or write balanced."
        )
