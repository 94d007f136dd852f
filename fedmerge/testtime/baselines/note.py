"""NOTE: instance-aware batch norm, and a prediction-balanced reservoir that the norms learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.wide import wide
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.adapted import Adapted
from fedmerge.testtime.baselines.learning import LearningNorm, Remembering, check_memory, learning
from fedmerge.testtime.baselines.memories import keep_balanced
from fedmerge.testtime.baselines.start import MergedBatchNorm, ask, check_step, nats
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.norms import affine_parameters, replace_norms
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "note",
    title="NOTE",
    paper="NOTE: robust continual test-time adaptation against temporal correlation, arXiv 2208.05117",
    needs=Needs(unlabelled_batches=True),
)
class Note(Remembering):
    """Correct each image's norms where it is unlike the stream's, and learn from a balanced reservoir.

    From the mean-merged model, by the released program. A batch norm with statistics mu, var sees L values of
    a channel in one image, of mean m and variance v. With psi(x; t) = sign(x) max(|x| - t, 0),

        mean = mu + psi(m - mu; k sqrt(var / L))
        variance = max(var + psi(v - var; k var sqrt(2 / (L - 1))), 0)

    so that an image is normalised by itself as far as it lies outside of k standard errors. Every image, with
    the class predicted for it, is offered to the reservoir (``memories.keep_balanced``). After each ``every``
    images the scales and shifts of the norms take a step of Adam on the mean entropy of the predictions for
    the reservoir; in that pass mu and var are the reservoir's own, and the statistics move towards them by
    ``momentum``.

    capacity, every: 64 each. k 4, momentum 0.01 and learning_rate 1e-4 are the paper's for small images.
    seed: of the reservoir. batch_norm: how the statistics to start from are merged.

    Departures: the paper trains its sources with these norms, too; ours were trained with plain ones. The
    reservoir is one batch, taken once. An update that falls inside a batch is taken after the batch has been
    answered.

    Cost: one forward pass a batch; an update adds one forward and one backward over the m images of the
    reservoir, m / N of a batch each. What was learned is carried until ``reset()``. Raises FedMergeError for
    a network without batch norm that has statistics, unfit options, models and batches, and logits that are
    not finite.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        capacity: int = 64,
        every: int = 64,
        learning_rate: float = 1e-4,
        k: float = 4.0,
        momentum: float = 0.01,
        seed: int = 0,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        check_step(learning_rate, 1, "before")
        check_memory(capacity, every)
        if not (k >= 0 and 0 <= momentum <= 1):
            raise FedMergeError(f"k is {k}, at least 0, and momentum {momentum}, within 0 and 1.")
        super().__init__(models, batch_norm)
        self.every, self.seed = every, seed

        def make(name: str, norm: _BatchNorm) -> nn.Module:
            return norm if norm.running_mean is None else InstanceAwareNorm(norm, k, momentum)

        replace_norms(self.model, make)
        if not any(isinstance(module, InstanceAwareNorm) for module in self.model.modules()):
            raise FedMergeError(
                "note corrects batch norms, but this network has no batch norm that keeps statistics: leave "
                "it out, or use tent, which also adapts layer and group norms."
            )
        norms = affine_parameters(self.model)
        for parameter in norms:
            parameter.requires_grad_(True)
        self.adapted = Adapted(self.model, norms, learning_rate)
        self.remember(capacity, self.model)

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C; learn where enough images have come."""
        with torch.no_grad():
            logits = ask(self.model, batch)
        self.forward_passes += 1
        for image, label in zip(batch, logits.argmax(dim=1).tolist(), strict=True):
            keep_balanced(self.memory, image.clone(), label, logits.shape[1], self.seed)
            if sum(self.memory.counts) % self.every == 0 and len(self.memory.items) > 1:
                self._learn(batch)
        return logits, None

    def _learn(self, batch: Tensor) -> None:
        images = self.memory.images(batch)
        with torch.enable_grad(), learning(self.model):
            self.adapted.step(nats(ask(self.model, images)).mean())
        self.adapted.settle()
        self.forward_passes += len(images) / len(batch)
        self.backward_passes += len(images) / len(batch)


class InstanceAwareNorm(LearningNorm):
    """A batch norm that corrects its statistics for an image outside of ``k`` standard errors (see Note)."""

    def __init__(self, norm: _BatchNorm, k: float, momentum: float) -> None:
        super().__init__(norm)
        self.k, self.momentum = k, momentum

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, N x C x ... ; an image of one value a channel has only the statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        seen = wide(x).flatten(2) if x.ndim > 2 else wide(x)[:, :, None]  # N x C x L
        mean, var = wide(self.running_mean), wide(self.running_var)
        if self.learns:
            mean, var = seen.mean(dim=(0, 2)), seen.var(dim=(0, 2))
            self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
            self.running_var.lerp_(var.detach().to(self.running_var), self.momentum)
        values = seen.shape[2]
        mean, var = mean[:, None], var[:, None]
        if values > 1:
            v, m = torch.var_mean(seen, dim=2, keepdim=True)
            noise = var + self.eps
            mean = mean + soft_shrink(m - mean, self.k * (noise / values).sqrt())
            var = var + soft_shrink(v - var, self.k * noise * math.sqrt(2 / (values - 1)))
        out = (seen - mean) * (var.relu() + self.eps).rsqrt()
        if self.weight is not None:
            out = out * wide(self.weight)[:, None] + wide(self.bias)[:, None]
        return out.reshape(x.shape).to(x.dtype)


def soft_shrink(x: Tensor, threshold: Tensor) -> Tensor:
    """Return sign(x) max(|x| - threshold, 0)."""
    return functional.relu(x - threshold) - functional.relu(-x - threshold)
