"""Batch-norm statistics learned from a stream whose classes may come one after another.

The statistics of a batch are those of a scanner and of a mix of classes. Where the mix is that of one class,
normalising by them removes the class (Gong et al., NOTE, arXiv 2208.05117). So moments are kept class by
class and averaged over classes as in Balanced Batch Normalization (Su et al., TRIBE, arXiv 2309.14949).
Departures: classes come as the sources' mean probabilities and not as one's own hard labels; moments are kept
in units of the merged running statistics, which change with every batch's coefficients; and they count only
as far as the stream has shown more than one class:

    z    = (x - mu) / sqrt(var + eps)                    mu, var: the merged running statistics
    n_c  = sum over images of q_c,  s_c = sum of q_c mean(z),  t_c = sum of q_c mean(z^2)    so far
    r_c  = n_c / (n_c + N)                               how far class c is known; N images of prior
    b    = balance * sum_c n_c / (sum_c n_c + N)         how far the stream is believed
    m    = b sum_c r_c (s_c / n_c) / sum_c r_c
    q    = 1 - b + b sum_c r_c (t_c / n_c) / sum_c r_c
    out  = weight (z - m) / sqrt(q - m^2) + bias

q_c is the sources' mean probability of class c for an image. balance = ((k - 1) / (C - 1))^2 with
k = (sum_c r_c)^2 / sum_c r_c^2, the number of classes that the stream has shown in effect: 0 for one, 1 for
all alike. Nothing seen: b = 0, the running statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LEAST_VARIANCE = 1e-3
"""Of the stream against the running variance: a channel that is constant in the stream is not blown up."""


@dataclass
class ClassWeights:
    """What all norms of one network share: q, N x C for the next forward pass; None: nothing is learned."""

    q: Tensor | None = None


class ClassBalancedNorm(nn.Module):
    """A batch norm in evaluation mode that learns the stream's statistics class by class (see the module).

    Takes over parameters and buffers of ``norm`` under their names. shared: where the weights of a pass are.
    prior: N, in images. Norms without running statistics are not for it.
    """

    running_mean: Tensor
    running_var: Tensor
    counts: Tensor | None
    moments: Tensor | None

    def __init__(self, norm: _BatchNorm, shared: ClassWeights, prior: float) -> None:
        super().__init__()
        self.eps, self.prior, self.shared = norm.eps, prior, shared
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.counts = self.moments = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, N x C x ... ; learn from it first where the pass has class weights."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = (self.running_var + self.eps).rsqrt()
        if self.shared.q is not None:
            self._learn((x - self.running_mean.view(shape)) * scale.view(shape), self.shared.q)
        mean, variance = self._stream()
        gain = variance.rsqrt() if self.weight is None else variance.rsqrt() * self.weight
        shift = -mean * gain if self.bias is None else self.bias - mean * gain
        factor = scale * gain
        offset = shift - self.running_mean * factor
        return x * factor.view(shape) + offset.view(shape)

    def _learn(self, z: Tensor, q: Tensor) -> None:
        pixels = list(range(2, z.ndim))
        first = z.mean(pixels) if pixels else z
        second = z.square().mean(pixels) if pixels else z.square()
        sums = torch.stack([q.T @ first, q.T @ second])
        if self.moments is None or self.counts is None:
            self.counts, self.moments = q.sum(dim=0), sums
        else:
            self.counts, self.moments = self.counts + q.sum(dim=0), self.moments + sums

    def _stream(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of z that the stream has shown, C each, drawn to 0 and 1."""
        if self.moments is None or self.counts is None:
            return torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        known = self.counts / (self.counts + self.prior)
        total = known.sum().clamp(min=torch.finfo(known.dtype).tiny)
        classes = total.square() / known.square().sum().clamp(min=torch.finfo(known.dtype).tiny)
        balance = ((classes - 1) / (len(known) - 1)).clamp(0, 1).square()
        belief = balance * self.counts.sum() / (self.counts.sum() + self.prior)
        weights = known / total / self.counts.clamp(min=torch.finfo(known.dtype).tiny)
        first, second = torch.einsum("c,kcd->kd", weights, self.moments)
        mean = belief * first
        return mean, (1 - belief + belief * second - mean.square()).clamp(min=LEAST_VARIANCE)


def use_class_balanced_norms(model: nn.Module, prior: float) -> tuple[ClassWeights, list[ClassBalancedNorm]]:
    """Replace the batch norms of ``model`` that have running statistics; return what they share, and them."""
    shared = ClassWeights()
    found = []
    for name, module in list(model.named_modules()):
        if name and isinstance(module, _BatchNorm) and module.running_mean is not None:
            found.append(ClassBalancedNorm(module, shared, prior))
            model.set_submodule(name, found[-1])
    return shared, found
