"""Networks as callers have them, with an input mean of their own, and their merge by any method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.merging import FUSION, merge

QUICK = {name: {"descent": {"epochs": 1}} for name in ("kf-gradient", "distill", "refit-head")}
ENSEMBLES = [name for name in FUSION.names() if name.startswith("ensemble")]
MERGES = [name for name in FUSION.names() if name not in ENSEMBLES]
OWN = ["ensemble-logits", "ensemble-probabilities", "ensemble-features", "distill", "refit-head"]
FITTED = ["hf", "kf", "kf-gradient", "regmean", "distill"]


class Net(nn.Module):
    """A small classifier of 8 x 8 images that subtracts an input mean from a buffer that is not saved."""

    def __init__(self, seed: int, mean: float = 0.0, answer=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.answer = answer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x - self.mean)).relu().mean((2, 3))
        logits = self.head(self.mid(x).relu())
        return logits if self.answer is None else self.answer(logits)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def fused(models, method: str, dtype: torch.dtype = torch.float32, start=None, **given):  # type: ignore[no-untyped-def]
    x, y = images()
    given = {"data": x.to(dtype), "labels": y, **given}
    return merge(models, method, start=start or Net(9).to(dtype), **QUICK.get(method, {}), **given).model
