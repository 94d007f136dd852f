"""The majority-class reference: it answers every image with the commonest class of the training images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedmerge.analysis import scores
from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.experiment.kinds import MAJORITY, REFERENCE
from fedmerge.experiment.stages.evaluation import Predictor
from fedmerge.experiment.stages.setup import Setup
from fedmerge.tasks import MULTICLASS, Task


class Frequencies(nn.Module):
    """A constant classifier: every image gets the class frequencies, so the commonest class; ties: the first.

    counts: training images per class, C numbers; of several findings an image, without and with each, F x 2.
    Logits are log(n_c / n), or those of the task that mean these shares; a class without any has 1e-9.
    """

    def __init__(self, counts: Sequence[int] | Tensor, task: Task = MULTICLASS) -> None:
        super().__init__()
        logits, self.right = task.constant(torch.as_tensor(counts))
        self.register_buffer("logits", logits)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x C, every row the same."""
        logits: Tensor = self.get_buffer("logits")
        return logits.expand(len(images), -1)


def majority(setup: Setup, target: str, class_counts: Mapping[str, Sequence[int]]) -> Predictor:
    """Return the majority-class reference for ``target``, of the images that pooled training may see.

    class_counts: what remote hospitals reported, by name; hospitals that reported none are left out.
    No test label is looked at, and it costs no pass. ``training`` is the share of its class among the
    training images, ``validation`` its score on the validation images, NaN where some are elsewhere. Raises
    FedMergeError where no hospital said what it has.
    """
    sites = [setup.cohort[name] for name in setup.experiment.sources(target, setup.members)]
    task = setup.cohort.task
    known = [
        torch.tensor(class_counts[site.name]) if site.remote else _tally(site)
        for site in sites
        if not site.remote or site.name in class_counts
    ]
    if not known:
        raise FedMergeError(
            f"no hospital that trains for '{target}' has said how many images a class it has."
        )
    model, validation = Frequencies(torch.stack(known).sum(0), task), math.nan
    if not any(site.remote for site in sites):
        labels = setup.union(target, "val").labels
        validation = scores(model(labels), labels, task=task)[setup.experiment.selection]
    return Predictor(MAJORITY, REFERENCE, model, 0, validation, model.right)


def _tally(site: Site) -> Tensor:
    """Return how many training images of a hospital have each outcome (``Task.tally``)."""
    return site.task.tally(site.train.class_counts(site.n_classes).tolist(), len(site.train))
