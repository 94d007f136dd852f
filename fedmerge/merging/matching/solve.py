"""Least squares from second moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Solver = Literal["ridge", "pinv"]
FLOAT32 = 2.0**-23


def solve(
    gram: Tensor, cross: Tensor, *, solver: Solver = "ridge", ridge: float = 1e-6, rows: int = 0
) -> Tensor:
    """Weights ``argmin_W |X W - T|^2``: … x d x n, from ``gram = X^T X`` (… x d x d), ``cross = X^T T``."""
    return factorised(gram, solver=solver, ridge=ridge, rows=rows)(cross)


@dataclass(frozen=True)
class Inverse:
    """``G^-1`` (or ``G^+``) of a positive semidefinite G, in factors: ``G^-1 = F^T F``.

    apply: C (… x d x n) -> G^-1 C. half: C -> F C, which takes half of the time. ridge: what was added to G's
    diagonal (… x 1 x 1), or None where small singular values were left out instead.
    """

    apply: Callable[[Tensor], Tensor]
    half: Callable[[Tensor], Tensor]
    ridge: Tensor | None = None

    def __call__(self, cross: Tensor) -> Tensor:
        """``G^-1 C``."""
        return self.apply(cross)

    def towards(self, prior: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
        """``P + G^-1 (C - X^T X P)``: the fit that is pulled to P; with a ridge r, ``G^-1 (C + r P)``."""
        if self.ridge is not None:
            return self(cross + self.ridge * prior)
        return prior + self(cross - gram @ prior)

    def between(self, cross: Tensor) -> Tensor:
        """``C^T G^-1 C``: n x n, symmetric to the last bit."""
        root = self.half(cross)
        found = root.transpose(-1, -2) @ root
        return (found + found.transpose(-1, -2)) / 2


def factorised(gram: Tensor, *, solver: Solver = "ridge", ridge: float = 1e-6, rows: int = 0) -> Inverse:
    """The map from ``cross`` to weights (see :func:`solve`); ``gram`` is factorised once for all that follow.

    ridge: ``(G + ridge trace(G)/d I)^-1 C`` by Cholesky. pinv: ``G^+ C``, singular values of X at or below
    ``max(rows, d) 2^-23`` of the largest left out, which is what the pseudo-inverse of a float32 X does in
    the program of arXiv 2507.00037. Both in float64.
    """
    if solver == "pinv":
        return _truncated(gram, rows)
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    added = ridge * torch.where(scale > 0, scale, 1.0)
    held = gram.clone()  # d can be thousands: a second table of that size is not made
    held.diagonal(dim1=-2, dim2=-1).add_(added)
    factor, failed = torch.linalg.cholesky_ex(held)
    if bool((failed > 0).any()):  # a ridge too small for this matrix
        return _truncated(gram, rows)
    return Inverse(
        lambda cross: torch.cholesky_solve(cross, factor),
        lambda cross: torch.linalg.solve_triangular(factor, cross, upper=False),
        added[..., None],
    )


def _truncated(gram: Tensor, rows: int) -> Inverse:
    """``G^+`` of a positive semidefinite matrix with the cut-off of :func:`factorised`."""
    values, vectors = torch.linalg.eigh(gram)
    least = values[..., -1:].clamp(min=0) * (max(rows, gram.shape[-1]) * FLOAT32) ** 2
    inverse = torch.where(values > least, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    return Inverse(
        lambda cross: vectors @ (inverse[..., None] * (vectors.transpose(-1, -2) @ cross)),
        lambda cross: inverse.sqrt()[..., None] * (vectors.transpose(-1, -2) @ cross),
    )
