"""How much each parent's neurons count: uniform, or by attribution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.matching.statistics import Statistics
from fedmerge.models.graph import Layer
from fedmerge.registry import Needs

Attribution = Literal["uniform", "conductance", "deeplift", "ablation"]
Normalisation = Literal["none", "sum1", "mean1"]


def attribution_needs(options: dict[str, object]) -> Needs:
    """Attribution asks how the logit of the true class comes about, so it needs labels."""
    return Needs(fusion_labels=options.get("attribution", "uniform") != "uniform")


class Importances:
    """Importance of every parent's channels and neurons; ones for ``uniform``.

    score = (1 / images) sum over images and positions of |attribution| + 1e-8, then normalised within each
    model and layer: ``mean1`` to a mean of one (models count equally), ``sum1`` to a sum of one, or not at
    all.
    """

    def __init__(
        self, networks: Networks, statistics: Statistics, kind: Attribution, normalisation: Normalisation
    ) -> None:
        self.networks = networks
        self._scores: dict[tuple[int, str], Tensor] = {}
        if kind == "uniform":
            return
        found = statistics.ask("importance", {"kind": kind}, {})
        for m in range(len(networks)):
            images = found.get(f"{m}/images", found["images"])
            for layer in networks.layers:
                score = found[f"{m}/{layer.name}"].cpu() / images.cpu() + 1e-8
                scale = {"none": 1.0, "sum1": float(score.sum()), "mean1": float(score.mean())}[normalisation]
                self._scores[m, layer.name] = score / scale

    def channels(self, layer: Layer) -> list[Tensor]:
        """For each parent, the importance of each channel of a layer (float64)."""
        return [
            self._scores.get((m, layer.name), torch.ones(width, dtype=torch.float64))
            for m, width in enumerate(self.networks.channels(layer))
        ]

    def neurons(self, group: int) -> Tensor:
        """The importance of each neuron of a group, parents side by side: the mean over its channels."""
        if not self._scores:
            return torch.ones(sum(self.networks.sizes(group)), dtype=torch.float64)
        writers = self.networks.writers(group)
        scores = [torch.diag(torch.cat(self.channels(layer))) for layer in writers]
        ones = [torch.eye(len(score), dtype=torch.float64) for score in scores]
        total, count = (
            torch.stack(
                [self.networks.table(group, w, t).diagonal() for w, t in zip(writers, tables, strict=True)]
            ).sum(0)
            for tables in (scores, ones)
        )
        return total / count
