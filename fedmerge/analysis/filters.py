"""How alike the filters of a network's convolutions are: cosines of pairs, and the rank they span."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError


def effective_rank(weight: Tensor) -> float:
    """How many directions the filters share their weight over: exp of the entropy of singular values.

    weight: n x ...; each filter is a row of an n x d matrix with singular values s. With p = s / sum(s) it is
    exp(-sum p log p): n for orthonormal filters, 1 for copies of one, at most min(n, d), and 0 where all are
    zero (Roy and Vetterli, The effective rank, EUSIPCO 2007). Raises FedMergeError for values not finite.
    """
    values = torch.linalg.svdvals(_rows(weight))
    if not values.any():
        return 0.0
    return math.exp(torch.special.entr(values / values.sum()).sum().item())


def pair_cosines(weight: Tensor) -> Tensor:
    """Cosine of every two filters of ``weight`` (n x ...), each pair once: n (n - 1) / 2 values, float64.

    They are the upper triangle, row by row. A filter of norm zero has cosine 0 with every other. Raises
    FedMergeError for values that are not finite.
    """
    rows = nn.functional.normalize(_rows(weight), dim=1, eps=torch.finfo(torch.float64).tiny)
    first, second = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return (rows @ rows.T)[first, second].clamp(-1.0, 1.0)


def filter_frame(model: nn.Module, tau: float = 0.3) -> pd.DataFrame:
    """One row per convolution, in definition order: layer, filters, rank, mean_cosine, share.

    rank: effective rank. share: the part of the pairs whose cosine is strictly above ``tau``. A convolution
    of a single filter has no pairs and is left out.
    """
    rows = []
    for layer, weight in _convolutions(model):
        cosines = pair_cosines(weight)
        rows.append(
            {
                "layer": layer,
                "filters": len(weight),
                "rank": effective_rank(weight),
                "mean_cosine": cosines.mean().item(),
                "share": (cosines > tau).double().mean().item(),
            }
        )
    return pd.DataFrame(rows, columns=["layer", "filters", "rank", "mean_cosine", "share"])


def similarity_frame(model: nn.Module, bins: int = 40) -> pd.DataFrame:
    """The histogram of pair cosines of each convolution: layer, low, high, share.

    ``bins`` bins of one width cover [-1, 1]; a bin holds its lower edge, the last also 1. The shares of a
    layer sum to 1. A convolution of a single filter is left out.
    """
    edges = [-1 + 2 * i / bins for i in range(bins + 1)]
    frames = []
    for layer, weight in _convolutions(model):
        cosines = pair_cosines(weight).cpu()
        shares = torch.histc(cosines, bins, -1.0, 1.0) / len(cosines)
        frames.append(
            pd.DataFrame({"layer": layer, "low": edges[:-1], "high": edges[1:], "share": shares.numpy()})
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_HISTOGRAM)


_HISTOGRAM = ["layer", "low", "high", "share"]


def _convolutions(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.out_channels > 1:
            yield name, module.weight


def _rows(weight: Tensor) -> Tensor:
    """The filters as rows of a float64 matrix, without their gradient."""
    if not weight.isfinite().all():
        raise FedMergeError("the filters have values that are not finite: was the training stable?")
    return weight.detach().double().flatten(1)
