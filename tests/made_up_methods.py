"""Methods that exist for the time of a test: fusion with needs, and a test-time method that divides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from fedmerge.registry import Needs

NEEDS = {
    "needs-images": Needs(fusion_images=True),
    "needs-sums": Needs(fusion_sums=True),
    "needs-labels": Needs(fusion_images=True, fusion_labels=True),
    "needs-start": Needs(shared_start=True),
}


class Calibrated(nn.Module):
    """Mean of the sources' logits, each divided by its temperature; ``made`` keeps all temperatures."""

    made: ClassVar[list[Sequence[float] | None]] = []

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        temperature: float = 1.0,
        source_temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.temperatures = source_temperatures or [1.0] * len(models)
        self.made.append(source_temperatures)
        self.reset()

    def reset(self) -> None:
        self.forward_passes = self.backward_passes = 0

    def observe(self, batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits = [m(batch) / t for m, t in zip(self.models, self.temperatures, strict=True)]
        return torch.stack(logits).mean(0), None
