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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.wide import wide, wide_dtype
from fedmerge.testtime.norms import replace_norms
from fedmerge.testtime.online import carried

Sums = tuple[Tensor, Tensor, Tensor]
"""n_c, s_c and t_c so far: C, C x channels, C x channels."""
LEAST_VARIANCE = 1e-3
"""Of the stream against the running variance: a channel that is constant in the stream is not blown up."""
NOTHING = 1e-30
"""PyTorch wants an eps above 0; this one changes no float32 variance, which has its own in it already."""


class Stream:
    """Shared by the norms of one network: N, and the class probabilities of the pass under way.

    prior: N, in images, above 0; infinity: always the running statistics. Raises FedMergeError for any other.
    by_class: False takes all images for one class, whose balance is 1: plain moments of the stream.
    """

    def __init__(self, prior: float, by_class: bool = True) -> None:
        if not prior > 0:
            raise FedMergeError(f"the norms' prior is {prior}; it must be a number of images above 0.")
        self.prior, self.by_class = prior, by_class
        self.sums: dict[str, Sums] = {}
        self.norms = 0
        self.q: Tensor | None = None
        self.chosen: Tensor | None = None
        self.held: dict[str, tuple[Tensor, Tensor]] | None = None
        self.noting = False
        self.noted: dict[str, tuple[Tensor, Tensor]] = {}

    def reset(self) -> None:
        """Forget the stream."""
        for sums in self.sums.values():
            for value in sums:
                value.zero_()  # in place: a recorded pass goes on with the same tensors

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move what was learned as ``fn`` of ``Module._apply`` does, never to a narrower dtype."""
        for name, sums in self.sums.items():
            counts, first, second = (carried(fn, value) for value in sums)
            self.sums[name] = counts, first, second

    def state(self) -> dict[str, Tensor]:
        """What was learned, by name."""
        learned = {name: sums for name, sums in self.sums.items() if bool(sums[0].any())}
        return {f"{name}.{part}": value for name, sums in learned.items() for part, value in enumerate(sums)}

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        names = dict.fromkeys(key.rpartition(".")[0] for key in state)
        self.sums = {name: (state[f"{name}.0"], state[f"{name}.1"], state[f"{name}.2"]) for name in names}

    @contextmanager
    def learning(
        self, q: Tensor | None = None, chosen: Tensor | None = None, *, noting: bool = False
    ) -> Iterator[None]:
        """Let passes inside learn from ``chosen`` images, or all; q, n x C: their class probabilities.

        noting: whether to note the moments of all images, for :meth:`learn_others`.
        """
        self.q = q if q is None or self.by_class else torch.ones_like(q[:, :1])
        self.chosen, self.noting = chosen, noting
        try:
            yield
        finally:
            self.q, self.chosen, self.noting = None, None, False

    def noted_moments(self) -> list[Tensor]:
        """The moments that were noted, norm by norm."""
        return [value for pair in self.noted.values() for value in pair]

    def note(self, moments: Sequence[Tensor]) -> None:
        """Note moments in the order of :meth:`noted_moments`: of a recorded pass they are its outputs."""
        self.noted = dict(zip(self.noted, zip(moments[::2], moments[1::2], strict=True), strict=True))

    def learn_others(self, p: Tensor, chosen: Tensor | None) -> None:
        """Learn from the images of the last noted pass that it did not learn from.

        p: class probabilities of all images, N x C. chosen: those that were learned from; None: none.
        """
        others = torch.ones(len(p), dtype=torch.bool, device=p.device)
        if chosen is not None:
            others[chosen] = False
        q = p[others] if self.by_class else torch.ones_like(p[others][:, :1])
        for name, (z, z2) in self.noted.items():
            self.add(name, q, z[others], z2[others])

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the moments that passes inside see, until :meth:`absorb`."""
        self.held = {}
        try:
            yield
        except BaseException:
            self.held = None
            raise

    def absorb(self, q: Tensor) -> None:
        """Learn from the moments that are held, of images with class probabilities q, n x C."""
        q = q if self.by_class else torch.ones_like(q[:, :1])
        for name, (z, z2) in (self.held or {}).items():
            self.add(name, q, z, z2)
        self.held = None

    def add(self, name: str, q: Tensor, z: Tensor, z2: Tensor) -> None:
        """Add images' moments of z, n x channels each, to a norm's sums."""
        with torch.autocast(z.device.type, enabled=False):
            q = q.to(z.dtype)
            now = q.sum(dim=0), q.T @ z, q.T @ z2
        if name not in self.sums:
            self.sums[name] = now
            return
        for sum_, value in zip(self.sums[name], now, strict=True):
            sum_ += value


class StreamNorm(nn.Module):
    """A batch norm in evaluation mode that learns the stream's statistics class by class (see the module).

    Takes over parameters and buffers of ``norm`` under their names. name: its own among those of a
    stream. A norm of float16 or bfloat16 calculates in float32.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm, stream: Stream, name: str | None = None) -> None:
        super().__init__()
        stream.norms += 1
        self.eps, self.stream, self.name = norm.eps, stream, name or f"norm{stream.norms}"
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, N x C x ... ; learn from it first where the pass has class probabilities."""
        if self.stream.q is not None:
            seen = x if self.stream.chosen is None else x[self.stream.chosen]
            self.stream.add(self.name, self.stream.q, *self._moments(seen))
        elif self.stream.held is not None:
            self.stream.held[self.name] = self._moments(x)
        if self.stream.noting:
            self.stream.noted[self.name] = self._moments(x)
        sums = self.stream.sums.get(self.name)
        mean, variance = wide(self.running_mean), wide(self.running_var) + self.eps
        if sums is not None:
            m, v = self._believed(*sums)
            mean, variance = mean + m * variance.sqrt(), variance * v
        seen = wide(x) if mean.dtype != self.running_mean.dtype else x
        weight, bias = (p if p is None else wide(p) for p in (self.weight, self.bias))
        return functional.batch_norm(seen, mean, variance, weight, bias, False, 0.0, NOTHING).to(x.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's mean of z and of its square, n x channels."""
        pixels, real = tuple(range(2, x.ndim)), wide_dtype(x.dtype)
        first, square = (wide(x), wide(x).square()) if not pixels else (x, x)
        if pixels:
            first = x.mean(pixels, dtype=real)
            square = self._mean_square(x, pixels, real)
        mu, variance = wide(self.running_mean), wide(self.running_var) + self.eps
        return (first - mu) * variance.rsqrt(), (square - 2 * mu * first + mu.square()) / variance

    @staticmethod
    def _mean_square(x: Tensor, pixels: tuple[int, ...], real: torch.dtype) -> Tensor:
        """Return the mean of x squared over its pixels, n x channels."""
        if x.device.type == "cpu" and not x.is_contiguous():  # a norm along other strides is ten times slower
            return x.to(real).square().mean(pixels)
        return torch.linalg.vector_norm(x, dim=pixels, dtype=real).square() / x[0, 0].numel()

    def _believed(self, counts: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stream's mean and variance of z, shrunk towards 0 and 1."""
        tiny = torch.finfo(counts.dtype).tiny
        known = counts / (counts + self.stream.prior)
        total = known.sum().clamp(min=tiny)
        classes = total.square() / known.square().sum().clamp(min=tiny)
        balance = ((classes - 1) / max(len(known) - 1, 1)).clamp(0, 1).square() if len(known) > 1 else 1.0
        belief = balance * counts.sum() / (counts.sum() + self.stream.prior)
        weights = belief * known / total / counts.clamp(min=tiny)
        mean = weights @ first
        return mean, (1 - belief + weights @ second - mean.square()).clamp(min=LEAST_VARIANCE)


def shares_of(p: Tensor) -> Tensor:
    """Return the class probabilities that norms learn by, n x C, rows of sum one, of distributions n x C.

    Of several findings an image, n x F x 2, the classes are the presence and the absence of each: an image
    counts 1 / F for each finding.
    """
    return p if p.ndim == 2 else p.flatten(1) / p.shape[1]


def use_stream_norms(model: nn.Module, stream: Stream) -> None:
    """Replace the batch norms of ``model`` that have running statistics by norms of ``stream``."""

    def make(name: str, norm: _BatchNorm) -> nn.Module:
        return norm if norm.running_mean is None else StreamNorm(norm, stream, name)

    replace_norms(model, make)
