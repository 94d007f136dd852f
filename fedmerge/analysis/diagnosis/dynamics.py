"""What In-Model Merging does to a network while it trains: merges, effective rank and similarity by epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.words import share
from fedmerge.analysis.filters import filter_frame, pair_cosines, similarity_frame
from fedmerge.data import Split
from fedmerge.errors import FedMergeError
from fedmerge.models.copies import faithful
from fedmerge.models.inputs import Normalisation
from fedmerge.registry import Needs
from fedmerge.seeding import Draws
from fedmerge.training import FitResult, InMergeOptions, Segment, TrainingOptions, fit

CONTROL = "random"
"""The run in which a filter that is merged moves towards any other instead of the similar one."""


class Dynamics(NamedTuple):
    """What was seen, one row per layer and epoch (and bin).

    merges: run, epoch, layer, merges, filters; without the control no run. effective_rank: run ("with",
    "without" or "random"), epoch, layer, rank, filters. similarity, of the start and the last epoch: run,
    epoch, layer, low, high, share.
    """

    merges: pd.DataFrame
    effective_rank: pd.DataFrame
    similarity: pd.DataFrame


@dataclass(frozen=True)
class Course:
    """How a network is trained. start_epochs: plain, shared by all runs; epochs: of each run after them.

    control: whether a run with random partners stands beside those with and without merging.
    """

    epochs: int = 3
    start_epochs: int = 0
    lr: float = 0.05
    batch_size: int = 64
    control: bool = False


def dynamics(
    network: nn.Module,
    split: Split,
    inmerge: InMergeOptions,
    course: Course,
    *,
    normalise: Normalisation,
    seed: int,
    report: Callable[[str], None] = lambda line: None,
) -> Dynamics:
    """Train ``network`` in place for ``start_epochs``, then copies of it with and without InMerge.

    All see the same batches; the learning rate falls along one cosine over both parts. Each epoch is one call
    of ``fit``, like a federated round: its merges are its own, and momentum starts at zero. Epoch 0 is the
    shared start.
    """

    def epoch(model: nn.Module, index: int, options: InMergeOptions | None) -> FitResult:
        whole = course.start_epochs + course.epochs
        return fit(
            model,
            split.images,
            split.labels,
            TrainingOptions.model_validate(
                {"lr": course.lr, "batch_size": course.batch_size, "inmerge": options}
            ),
            normalise=normalise,
            draws=Draws(seed, round=index),
            segment=Segment((index / whole, (index + 1) / whole)),
        )

    for index in range(course.start_epochs):
        report(f"start, epoch {index + 1}: loss {epoch(network, index, None).losses[0]:.4f}")
    runs = [("without", None), ("with", inmerge)]
    if course.control:
        runs.append((CONTROL, inmerge.model_copy(update={"partner": "random"})))
    merges, ranks, similarity = [], [], []
    for run, options in runs:
        model = copy.deepcopy(network)
        ranks.append(filter_frame(model).assign(run=run, epoch=0))
        similarity.append(similarity_frame(model).assign(run=run, epoch=0))
        for number in range(1, course.epochs + 1):
            result = epoch(model, course.start_epochs + number - 1, options)
            ranks.append(filter_frame(model).assign(run=run, epoch=number))
            counts = result.merges
            merged = {"run": run, "epoch": number, "layer": list(counts), "merges": counts.values()}
            merges.append(pd.DataFrame(merged))
            report(f"{run}, epoch {number}: loss {result.losses[0]:.4f}, {sum(counts.values())} merges")
        similarity.append(similarity_frame(model).assign(run=run, epoch=course.epochs))
    rank, alike = pd.concat(ranks, ignore_index=True), pd.concat(similarity, ignore_index=True)
    counted = pd.concat(merges, ignore_index=True)
    counted["filters"] = counted["layer"].map(rank.drop_duplicates("layer").set_index("layer")["filters"])
    return Dynamics(
        counted[[*(["run"] if course.control else []), "epoch", "layer", "merges", "filters"]],
        rank[["run", "epoch", "layer", "rank", "filters"]],
        alike[["run", "epoch", "layer", "low", "high", "share"]],
    )


def threshold(model: nn.Module, quantile: float = 0.9) -> float:
    """Return the cosine that so large a share of a network's pairs of filters does not exceed.

    A threshold at which something is merged, whatever the network. Raises FedMergeError without a convolution
    of two filters.
    """
    found = [
        pair_cosines(each.weight) for each in model.modules()
        if isinstance(each, nn.Conv2d) and each.out_channels > 1
    ]  # fmt: skip
    if not found:
        raise FedMergeError("the network has no convolution of two filters or more, so none can be merged.")
    ordered = torch.cat(found).sort().values
    return float(ordered[min(int(quantile * len(ordered)), len(ordered) - 1)])


@ANALYSES.method(
    "inmerge",
    title="In-model merging by epoch",
    paper="In-Model Merging, arXiv 2502.20516",
    needs=Needs(individual_models=True, fusion_labels=True),
)
def inmerge(subject: Subject, *, epochs: int = 3, tau: float | None = None, lr: float = 0.01) -> Finding:
    """Train the first model on with and without merging its filters, and with random partners.

    ``tau``: the threshold; None: the 0.9-quantile of the model's pair cosines, so that something is merged.
    All images are trained on, in batches of 64 at most. Tables: those of ``Dynamics``. Needs the images as
    uint8 (``subject.raw``).
    """
    if subject.raw is None or subject.normalise is None:
        raise FedMergeError(
            "training needs the images as uint8, and how they are normalised: give raw= and normalise=."
        )
    model = faithful(next(iter(subject.models.values()))).cpu()
    used = threshold(model) if tau is None else tau
    assert subject.labels is not None
    course = Course(epochs, 0, lr, min(64, len(subject.raw)), control=True)
    split = Split(subject.raw.cpu(), subject.labels.cpu())
    options = InMergeOptions.model_validate({"tau": used})
    found = dynamics(model, split, options, course, normalise=subject.normalise, seed=subject.seed)
    counts = found.merges.groupby("run", sort=False)["merges"].sum()
    last = found.effective_rank[found.effective_rank["epoch"] == epochs]
    part = last[last["layer"].isin(found.merges["layer"])]
    rank = (part["rank"] / part["filters"]).groupby(part["run"]).mean()
    change = float(rank["with"] - rank["without"])
    said = (
        f"At tau = {used:.2f}, {int(counts.get('with', 0))} filters are merged in {epochs} epochs; their "
        f"layers then span {share(rank['with'])} of the directions they could, without merging "
        f"{share(rank['without'])}, with random partners {share(rank[CONTROL])}: "
    )
    same = abs(float(rank["with"] - rank[CONTROL])) < 0.01
    said += "similar partners are no better than random ones." if same else "which partner is taken matters."
    return Finding(found._asdict(), said, change)
