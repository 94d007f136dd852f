"""How sure a classifier is of each class, as log-odds, and how well they rank: exact where softmax is 1."""

from __future__ import annotations

import torch
from torch import Tensor


def log_odds(logits: Tensor) -> Tensor:
    """The log-odds of each class, log(p_c / (1 - p_c)) = z_c - log sum_{k != c} exp(z_k): float64, N x C.

    They order images as p_c does, but they differ where p_c rounds to 1 or to 0. Images tie where their
    logits are the same up to a constant and to the order of the other classes. A logit of -inf is a class of
    probability 0; NaN where an image has no probabilities (a logit NaN or +inf, or all of them -inf).

    With the largest logit t taken off all, and S the sum of exp(z_k) over the other classes, class t has
    log-odds -log S, any other z_c - log(1 + S - exp(z_c)). Each image's logits are sorted before they are
    summed, and each different row is computed once: equal values have equal bits.
    """
    z = logits.double()
    ordered, order = (z - z.amax(1, keepdim=True)).sort(1)
    rows, index = ordered.unique(dim=0, return_inverse=True)
    others = rows[:, :-1]
    rest = others.exp().sum(1, keepdim=True) - others.exp()
    found = torch.cat([others - rest.clamp_min(0).log1p(), -others.logsumexp(1, keepdim=True)], 1)
    found.masked_fill_(rows.isnan().any(1, keepdim=True), torch.nan)
    return torch.empty_like(z).scatter_(1, order, found[index])
