"""Scores: how badly each source fits a batch, computed from its predictions; lower is better.

Two more look inside the sources: ``source_fit``.

With p_i(x) the softmax of source i's logits, H the entropy and pbar(x) = (1/M) sum_i p_i(x), all divided by
log C (of another task than multiclass: its distributions, and their largest entropy), a score of source i on
a batch is one of

    entropy             mean over x of H(p_i(x))                        the paper's
    median-entropy      median over x of H(p_i(x))
    trimmed-entropy     mean over the middle 80 % of x of H(p_i(x))
    prediction-entropy  H(mean over x of p_i(x))
    mutual-information  mean over x of H(p_i(x)) - H(mean over x of p_i(x))
    consensus           mean over x of - sum_c p_i log pbar   = H(p_i) + KL(p_i || pbar)
    agreement           mean over x of - sum_c pbar log p_i   = H(pbar) + KL(pbar || p_i)

Entropy measures how sure a source is. Consensus is entropy plus disagreement with the other sources.
Agreement measures whether a source allows for the others' predictions: a sure dissenter is worst.
``prediction-entropy`` favours sources that predict one class, ``mutual-information`` those that predict many.

The first five are readings of The Mean is the Mirage, arXiv 2602.21372; consensus and agreement are ours.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.tasks import MULTICLASS, Task
from fedmerge.testtime.entropy import sample_entropies

Statistic = Literal[
    "entropy",
    "median-entropy",
    "trimmed-entropy",
    "prediction-entropy",
    "mutual-information",
    "consensus",
    "agreement",
    "norm-distance",
    "feature-separability",
]
INSIDE = ("norm-distance", "feature-separability")
"""Those that are not computed from predictions alone."""
BY_IMAGE = ("entropy", "consensus", "agreement")
TRIMMED = 0.1
"""The share of images that the trimmed mean leaves out at either end."""


def check_statistic(statistic: str, by_image: bool = False) -> None:
    """Raise FedMergeError for an unknown statistic, or with ``by_image`` one without a value by image."""
    allowed = BY_IMAGE if by_image else get_args(Statistic)
    if statistic not in allowed:
        what = "statistic of one image" if by_image else "statistic"
        raise FedMergeError(f"unknown {what} '{statistic}'. Allowed: {', '.join(allowed)}.")


def image_scores(logits: Tensor, statistic: Statistic, task: Task = MULTICLASS) -> Tensor:
    """Return the score of each source on each image, M x N, for logits M x N x C; see ``BY_IMAGE``."""
    if statistic == "entropy":
        return sample_entropies(logits, task)
    log_p = task.log_p(logits).clamp(min=torch.finfo(logits.dtype).min)
    p = log_p.exp()
    mean = p.mean(dim=0)
    if statistic == "agreement":
        return task.cross_entropy(mean, log_p)
    # pbar is at least p_i / M, so its logarithm is finite wherever p_i counts
    log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    return task.cross_entropy(p, log_mean)


def scores(logits: Tensor, statistic: Statistic = "entropy", task: Task = MULTICLASS) -> Tensor:
    """Return the score of each source on a batch, M, for finite logits M x N x C."""
    if statistic in ("prediction-entropy", "mutual-information"):
        whole = task.entropy_of(task.p(logits).mean(dim=1))
        return (
            whole if statistic == "prediction-entropy" else sample_entropies(logits, task).mean(dim=1) - whole
        )
    if statistic in BY_IMAGE:
        return image_scores(logits, statistic, task).mean(dim=1)
    ordered = sample_entropies(logits, task).sort(dim=1).values
    count = ordered.shape[1]
    if statistic == "median-entropy":
        return ordered[:, (count - 1) // 2 : count // 2 + 1].mean(dim=1)
    cut = int(TRIMMED * count)
    return ordered[:, cut : count - cut].mean(dim=1)
