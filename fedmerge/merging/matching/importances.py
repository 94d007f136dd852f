"""How much each parent's neurons count: uniform, or by attribution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.neurons.maps import Shares, unmatched
from fedmerge.merging.neurons.statistics import Statistics
from fedmerge.models.graph import Layer
from fedmerge.registry import Needs

Attribution = Literal["uniform", "conductance", "deeplift", "ablation"]
Normalisation = Literal["none", "sum1", "mean1"]


def attribution_needs(options: dict[str, object]) -> Needs:
    """Return what attribution needs: it explains the logit of the true class, so it needs labels."""
    weighed = options.get("attribution", "uniform") != "uniform"
    return Needs(fusion_labels=weighed, own_sums=weighed)


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
        self._used: dict[tuple[int, str], Tensor] = {}
        if kind == "uniform":
            return
        found = statistics.ask("importance", {"kind": kind}, {})
        for m in range(len(networks)):
            images = found.get(f"{m}/images", found["images"])
            for layer in networks.layers:
                total = found[f"{m}/{layer.name}"].cpu()
                score = total / images.cpu() + 1e-8
                scale = {"none": 1.0, "sum1": float(score.sum()), "mean1": float(score.mean())}[normalisation]
                self._scores[m, layer.name] = score / scale
                self._used[m, layer.name] = total > 0

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

    def shares(self) -> Shares:
        """How much each parent counts in channels that no group covers, such as the output layer's classes.

        Of every tensor of a layer that has such channels, see :func:`shares_of` and ``Correspondence``; empty
        for ``uniform``. Raises FedMergeError where the parents have other numbers of such channels.
        """
        found: Shares = {}
        for layer in self.networks.layers if self._scores else ():
            size = len(self.networks.like[layer.weight])
            free = unmatched(self.networks.neurons, layer.weight, 0, size)
            if len(free) == 0:
                continue
            table = torch.zeros(len(self.networks), size, dtype=torch.float64)
            table[:, free] = shares_of(*self._unmatched(layer, len(free)))
            keys = (layer.weight, layer.bias, *layer.norm_keys)
            found |= {(key, 0): table for key in keys if key is not None}
        return found

    def _unmatched(self, layer: Layer, count: int) -> tuple[Tensor, Tensor]:
        """Scores, and whether there is any attribution, of the channels of no group: M x count each."""
        scores, used = [], []
        for m, neurons in enumerate(self.networks.parents):
            own = unmatched(neurons, layer.weight, 0, len(self._scores[m, layer.name]), of=(m, count))
            scores.append(self._scores[m, layer.name][own])
            used.append(self._used[m, layer.name][own])
        return torch.stack(scores), torch.stack(used)


def shares_of(scores: Tensor, used: Tensor) -> Tensor:
    """``s_mc / sum_m s_mc`` of channel c in model m (M x c), and 1/M where no model's channel is ``used``.

    Row c of the fused output layer is the mean of the parents' rows c with these weights. Where no image
    tells anything of a class, scores are the constant 1e-8, and normalisation must not turn it into a
    preference.
    """
    return torch.where(used.any(0), scores / scores.sum(0), 1 / len(scores))
