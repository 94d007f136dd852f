"""Figure 3 of Rethinking Weight-Averaged Model-merging, with batch norm: the gap by depth.

The gap is the logit ensemble's lead over the mean of the weights. Networks of four depths are averaged: from
one start, under one initial head or each under its own, with the merged batch-norm statistics and with those
measured anew on the training images; once longer than on the rest of the page, so that all depths learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
LONG = 24
"""Epochs after which the deepest network has learnt; the page's four leave it near chance."""
KINDS: dict[str, tuple[bool, dict[str, Any], tuple[str, ...]]] = {
    "one head": (False, {}, SETS),
    "own heads": (True, {}, SETS),
    f"own heads, {LONG} epochs": (True, {"epochs": LONG}, ("cells",)),
}
"""Models of a setting: whether each has an initial head of its own, what differs in training, data sets."""
MANY = 4
"""Test images, and validation images, for one of another question: nothing is chosen here."""
ENSEMBLE, MEAN, ANEW, MEMBERS = "ensemble", "mean", "mean, norms measured anew", "members"


def gaps(
    shop: Workshop, data: str, network: str, kind: str, models: Mapping[str, nn.Module], seed: int
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
        yield Row("depth", f"{data}, {kind}", seed, case, "accuracy", value, LAYERS[network])


def _unseen(found: Pictures) -> tuple[Tensor, Tensor]:
    """Validation and test images as networks take them, and their labels."""
    x, y = (torch.cat(both) for both in zip(seen(found.val), seen(found.test), strict=True))
    return x, y
