"""A few steps of an experiment's training, to time them before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedmerge.data import Split
from fedmerge.federation import FederationPlan
from fedmerge.models.zoo import build
from fedmerge.seeding import Draws
from fedmerge.training import fit

if TYPE_CHECKING:
    from fedmerge.experiment.stages.setup import Setup


def train_some(
    plan: FederationPlan, images: Split, normalise: Callable[[Tensor], Tensor], device: str, *, steps: int
) -> int:
    """Train the network of a plan on some images, and forget it; return how many steps that were.

    steps: at most so many.
    """
    options = plan.local.model_copy(update={"epochs": 1})
    count = min(len(images), steps * options.batch_size)
    some = images.select(torch.arange(count).numpy())
    network = build(plan.model, seed=0).to(device)
    return fit(network, some.images, some.labels, options, normalise=normalise, draws=Draws(0)).steps


def step_seconds(setup: Setup) -> float:
    """Return the seconds of a training step of a federation here: of the second of two, the first is slower.

    Raises FedMergeError where its hospitals cannot train.
    """
    name = next((name for name in setup.members if len(setup.cohort[name].train)), setup.members[0])
    images, normalise = setup.cohort[name].train, setup.normalise(name)
    for _ in range(2):
        began = time.perf_counter()
        done = train_some(setup.plan, images, normalise, setup.device, steps=1)
        seconds = (time.perf_counter() - began) / done
    return seconds
