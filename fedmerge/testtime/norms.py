"""Normalisation layers of any network: batch norm on the batch's own statistics, and affine parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.wide import wide


class BatchStatistics(nn.Module):
    """A batch norm that normalises by the batch it sees, in evaluation mode too; differentiable.

        mean = s source_mean + (1 - s) batch_mean,    var likewise,    s = N / (N + n)

    with n the images in the batch and N = ``source_images`` (0: the batch alone); or s = ``source_share``, if
    it is given, whatever n is. Takes over the parameters and buffers of ``norm`` under their names; batch
    variances are biased, as in training mode. One value a channel (one image, no pixels left) has no
    variance: there s = 1 where N = 0. Raises FedMergeError for that in a norm that tracks no statistics.
    Moments of float16 and bfloat16 are float32 ones.
    """

    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(
        self, norm: _BatchNorm, source_images: float = 0.0, source_share: float | None = None
    ) -> None:
        super().__init__()
        self.eps = norm.eps
        self.source_images, self.source_share = source_images, source_share
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, N x C x ... ."""
        source_mean, source_var = self.running_mean, self.running_var
        weight, bias = (p if p is None else wide(p) for p in (self.weight, self.bias))
        one = x.numel() == x.shape[1]
        if one and (source_mean is None or source_var is None):
            raise FedMergeError(
                "batch statistics need more than one value a channel, but a batch-norm layer that tracks no "
                "statistics sees one: give more images a batch."
            )
        alone = self.source_images == 0 and self.source_share is None and not one
        if alone or source_mean is None or source_var is None:
            given = x if weight is self.weight else wide(x)
            return functional.batch_norm(given, None, None, weight, bias, True, 0.0, self.eps).to(x.dtype)
        seen = wide(x)
        dims = [0, *range(2, x.ndim)]
        if one and not self.source_images and not self.source_share:
            share = 1.0
        elif self.source_share is not None:
            share = self.source_share
        else:
            share = self.source_images / (self.source_images + len(x))
        mean = torch.lerp(seen.mean(dims), source_mean.to(seen.dtype), share)
        var = torch.lerp(seen.var(dims, correction=0), source_var.to(seen.dtype), share)
        return functional.batch_norm(seen, mean, var, weight, bias, False, 0.0, self.eps).to(x.dtype)


def use_batch_statistics(
    model: nn.Module, source_images: float = 0.0, source_share: float | None = None
) -> int:
    """Replace every batch norm inside ``model`` by :class:`BatchStatistics`; return how many there were."""
    return replace_norms(model, lambda name, norm: BatchStatistics(norm, source_images, source_share))


def replace_norms(model: nn.Module, make: Callable[[str, _BatchNorm], nn.Module]) -> int:
    """Put ``make(name, norm)`` in place of every batch norm inside ``model``; return how many there were.

    A norm that stands under several names is made once.
    """
    made: dict[_BatchNorm, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and isinstance(module, _BatchNorm):
            if module not in made:
                made[module] = make(name, module)
            model.set_submodule(name, made[module])
    return len(made)


def affine_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The scales and shifts of batch, layer, group and instance norms, in order of the modules."""
    kinds = (BatchStatistics, _BatchNorm, nn.LayerNorm, nn.GroupNorm, _InstanceNorm)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    return list(dict.fromkeys(each for norm in norms for each in norm.parameters(recurse=False)))
