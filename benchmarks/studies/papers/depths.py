"""Figure 3 of Rethinking Weight-Averaged Model-merging, with batch norm: the gap by depth.

The gap is the logit ensemble's lead over the mean of the weights. Networks of four depths are averaged: from
one start, under one initial head or each under its own, with the merged batch-norm statistics and with those
measured anew on the training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmarks.studies.papers.cells import Row
from benchmarks.studies.papers.images import Pictures, pictures
from benchmarks.studies.papers.networks import LAYERS, Workshop, seen
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.merging import merge

NORMED = ("small-cnn", "vgg11", "vgg16", "vgg19")
"""Networks with batch norm: 4, 9, 14 and 17 layers."""
SETS = ("digits", "cells")
HEADS = {"one head": False, "own heads": True}
MANY = 4
"""Test images, and validation images, for one of another question: nothing is chosen here."""
ENSEMBLE, MEAN, ANEW, MEMBERS = "ensemble", "mean", "mean, norms measured anew", "members"


def setting_of(data: str, heads: str) -> str:
    """Name a setting: all depths of one data set and kind of heads."""
    return f"{data}, {heads}"


def gaps(
    shop: Workshop, data: str, network: str, heads: str, models: Mapping[str, nn.Module], seed: int
) -> Iterator[Row]:
    """The accuracy of the mean, of the mean with norms measured anew, and of the ensemble, at one depth."""
    found = pictures(data, seed, shop.sizes.images, MANY * shop.sizes.tested)
    x, y = _unseen(found)
    several = list(models.values())
    train, _ = seen(found.train)
    logits = [answers(model, x) for model in several]
    given = {
        MEAN: answers(merge(several, "mean").model, x),
        ANEW: answers(merge(several, "mean", data=train, after="batch-norm").model, x),
        ENSEMBLE: torch.stack(logits).mean(0),
    }
    accuracy = {case: score(each, y).accuracy for case, each in given.items()}
    accuracy[MEMBERS] = sum(score(each, y).accuracy for each in logits) / len(logits)
    for case, value in accuracy.items():
        yield Row("depth", setting_of(data, heads), seed, case, "accuracy", value, LAYERS[network])


def _unseen(found: Pictures) -> tuple[Tensor, Tensor]:
    """Validation and test images as networks take them, and their labels."""
    x, y = (torch.cat(both) for both in zip(seen(found.val), seen(found.test), strict=True))
    return x, y
