"""How well a source fits a batch, from inside the network: its batch norms, its features, its agreement.

These need no confidence. Lower scores fit better, as in ``scoring``.

    norm-distance         mean over batch norms l and channels c of KL(N(m_lc, v_lc) || N(mu_lc, var_lc))
    feature-separability  1 - sum_c n_c |mean of z in c - mean of z|^2 / sum over x of |z(x) - mean of z|^2

m, v: moments of what enters norm l on the batch; mu, var: its running statistics. z: the features, c: the
class that the source itself predicts. Between-class dispersion of features as a sign of accuracy is from Xie
et al., arXiv 2303.15488; theirs is not divided by the total, so that it has a scale. Distances of batch-norm
statistics weigh sources in CONTRAST, arXiv 2401.02561 (``baselines/contrast.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.models.wide import wide
from fedmerge.testtime.norms import BatchStatistics

LEAST_VARIANCE = 1e-3
"""Of a batch against the running variance: a channel that is constant on a batch is not infinitely far."""


@contextmanager
def norm_distances(model: nn.Module, measured: bool = True) -> Iterator[list[Tensor]]:
    """Collect from passes inside the mean KL divergence of each batch norm with running statistics.

    measured: False collects nothing.
    """
    found: list[Tensor] = []

    def measure(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm | BatchStatistics)
        x = wide(given[0].detach())
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = wide(norm.running_mean), wide(norm.running_var) + norm.eps
        dims = [0, *range(2, x.ndim)]
        found.append(gaussian_kl(x.mean(dims), x.var(dims, correction=0), mean, variance).mean())

    kinds = (_BatchNorm, BatchStatistics)
    modules = list(model.modules()) if measured else []
    norms = [m for m in modules if isinstance(m, kinds) and m.running_mean is not None]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def gaussian_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)), elementwise, in nats."""
    ratio = (variance / other_variance).clamp(min=LEAST_VARIANCE)
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean).square() / other_variance)


def inseparability(features: Tensor, logits: Tensor) -> Tensor:
    """Return one minus the share of the features' variance between predicted classes: N x D, N x C to ().

    1 where one class is predicted, or where all features are alike.
    """
    z = wide(features.flatten(1))
    z = z - z.mean(dim=0)
    members = functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(z.dtype)
    sums = members.T @ z
    between = (sums.square().sum(dim=1) / members.sum(dim=0).clamp(min=1)).sum()
    total = z.square().sum()
    return torch.where(total > 0, 1 - between / total.clamp(min=torch.finfo(z.dtype).tiny), 1.0)


def fleiss_kappa(logits: Tensor) -> float:
    """Return Fleiss' kappa of the classes that A sources say: logits A x N x C.

        kappa = (P - P_e) / (1 - P_e),   P_e = sum_c p_c^2

    with P the mean over images of the share of pairs of sources that agree and p_c the share of class c among
    all A N answers (Fleiss 1971). 1: they agree on all images; 0: as often as by chance. Where one class is
    all that is said, or one source is asked, it is 1.
    """
    sources, images, classes = logits.shape
    counts = functional.one_hot(logits.argmax(dim=-1), classes).sum(dim=0).double()
    by_chance = float((counts.sum(dim=0) / (sources * images)).square().sum())
    if sources < 2 or by_chance >= 1:
        return 1.0
    agreed = float(((counts.square().sum(dim=1) - sources) / (sources * (sources - 1))).mean())
    return (agreed - by_chance) / (1 - by_chance)
