"""The majority-class reference: it answers every image with the commonest class of the training images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedmerge.analysis import scores
from fedmerge.errors import FedMergeError
from fedmerge.experiment.kinds import MAJORITY, REFERENCE
from fedmerge.experiment.stages.evaluation import Predictor
from fedmerge.experiment.stages.setup import Setup


class Frequencies(nn.Module):
    """A constant classifier: every image gets the class frequencies, so the commonest class; ties: the first.

    counts: training images per class, C numbers. Logits are log(n_c / n); log(1e-9) for a class without any.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__()
        numbers = torch.tensor(counts, dtype=torch.float64)
        logits = (numbers / numbers.sum()).clamp(min=1e-9).log().float()
        self.register_buffer("logits", logits)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x C, every row the same."""
        logits: Tensor = self.get_buffer("logits")
        return logits.expand(len(images), -1)


def majority(setup: Setup, target: str, class_counts: Mapping[str, Sequence[int]]) -> Predictor:
    """Return the majority-class reference for ``target``, of the images that pooled training may see.

    told: class counts that remote hospitals reported, by name; hospitals that reported none are left out.
    No test label is looked at, and it costs no pass. ``training`` is the share of its class among the
    training images, ``validation`` its score on the validation images, NaN where some are elsewhere. Raises
    FedMergeError where no hospital said what it has.
    """
    sites = [setup.cohort[name] for name in setup.experiment.sources(target, setup.members)]
    known = [
        torch.tensor(class_counts[site.name]) if site.remote else site.train.class_counts(site.n_classes)
        for site in sites
        if not site.remote or site.name in class_counts
    ]
    if not known:
        raise FedMergeError(
            f"no hospital that trains for '{target}' has said how many images a class it has."
        )
    counts = torch.stack(known).sum(0)
    model, validation = Frequencies(counts.tolist()), math.nan
    if not any(site.remote for site in sites):
        labels = setup.union(target, "val").labels
        validation = scores(model(labels), labels)[setup.experiment.selection]
    return Predictor(MAJORITY, REFERENCE, model, 0, validation, float(counts.max() / counts.sum()))
