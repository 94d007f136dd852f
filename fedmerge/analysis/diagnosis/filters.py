"""Filters: where convolutions hold alike filters and redundant feature maps, in models and in the mean."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, BATCH, Finding, Subject, answers
from fedmerge.analysis.diagnosis.words import share
from fedmerge.analysis.filters import filter_frame
from fedmerge.errors import FedMergeError
from fedmerge.models.copies import fill
from fedmerge.registry import Needs

MEAN = "mean"


@ANALYSES.method(
    "filters",
    title="Alike filters",
    paper="In-Model Merging, arXiv 2502.20516",
    needs=Needs(individual_models=True),
    misfits={},
)
def filters(subject: Subject, *, tau: float = 0.3) -> Finding:
    """Measure each convolution's effective rank, pairs of filters above ``tau``, and redundancy of its maps.

    Table ``filters``: model (``mean``: the mean of all), layer, filters, rank, mean_cosine, share (of the
    pairs whose cosine is above ``tau``), and with images redundancy: the mean absolute correlation of two
    feature maps over all positions of at most 256 images. A convolution of one filter has no row.
    """
    subject.check_alike()
    frames = []
    for name, model in {**subject.models, MEAN: fill(subject.network(), subject.mean())}.items():
        frame = filter_frame(model, tau)
        frame.insert(0, "model", name)
        if subject.images is not None:
            frame["redundancy"] = frame["layer"].map(redundancy(model, subject.pictures[:BATCH]))
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    if table.empty:
        raise FedMergeError(
            "these networks have no convolution of two filters or more: there is nothing to see."
        )
    own = table[table["model"] != MEAN]
    ranks = own["rank"] / own["filters"]
    merged = table[table["model"] == MEAN]
    after = float((merged["rank"] / merged["filters"]).mean())
    alike = float(own["share"].mean())
    text = (
        f"{share(alike)} of the pairs of filters are more alike than {tau:g}; filters span "
        f"{share(ranks.mean())} of the directions they could, in the mean of the models {share(after)}: "
    )
    said = (
        "in-model merging has pairs to merge."
        if alike > 0.01
        else f"in-model merging at {tau:g} merges nothing."
    )
    return Finding({"filters": table}, text + said, alike)


def redundancy(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return, by convolution, the mean absolute correlation of two of its output maps; flat ones left out."""
    found: dict[str, float] = {}

    def hook(name: str) -> Any:
        def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.shape[1] > 1:
                rows = output.detach().movedim(1, 0).flatten(1).double()
                table = torch.corrcoef(rows)
                first, second = torch.triu_indices(len(table), len(table), offset=1)
                found[name] = float(table[first, second].abs().nanmean())

        return see

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    ]  # fmt: skip
    try:
        answers(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return found
