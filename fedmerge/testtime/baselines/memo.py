"""MEMO: each image alone, one step towards agreement of its augmented views, then back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.narrow_strides import lay_out_planes
from fedmerge.registry import Needs
from fedmerge.seeding import generator
from fedmerge.testtime.baselines.start import (
    MergedBatchNorm,
    Start,
    ask,
    check_step,
    nats,
)
from fedmerge.testtime.baselines.views import shifted
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart, carried


@TESTTIME.method(
    "memo",
    title="MEMO",
    paper="MEMO: test time robustness via adaptation and augmentation, arXiv 2110.09506",
    needs=Needs(unlabelled_batches=True),
    misfits={},
)
class Memo(Start):
    """Adapt all weights to one image, predict it, and restore them.

        loss(x) = H( (1/A) sum_a softmax(f_theta(augment_a(x))) ),    theta' = theta - learning_rate grad

    From the mean-merged model: one step of plain gradient descent, the prediction of x itself by theta',
    then theta again. A view is x shifted by up to ``shift`` of its shorter side (at least one pixel; the
    border is repeated) and, with ``flip``, mirrored left to right at even odds; the paper's AugMix is made
    for larger images. Set ``flip`` to False where mirror images mean something else (digits, chest X-rays).

    augmentations: A, 8, the least of those in use; the paper has 32 and 64. learning_rate: 0.005, the
    paper's for small images (0.00025 for ImageNet). seed: views depend on it and on the image alone, so the
    size of a batch and the order of the stream change nothing.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``. Statistics
    stay the sources'; the paper mixes in those of the views, as bn-adapt does.

    Cost: A + 1 forward passes a batch and A backward (A views of every image, and the image itself); N
    separate steps. Raises FedMergeError for unfit options and batches, and logits that are not finite. One
    model alone, pooled training for instance, is its own mean.
    """

    order_free = True

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        augmentations: int = 8,
        learning_rate: float = 0.005,
        shift: float = 0.1,
        flip: bool = True,
        seed: int = 0,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        check_step(learning_rate, 1, "after")
        if augmentations < 1:
            raise FedMergeError(f"augmentations is {augmentations}; it must be at least 1.")
        if not 0 <= shift <= 1:
            raise FedMergeError(f"shift is {shift}; it must be within [0, 1], a part of the shorter side.")
        super().__init__(models, batch_norm)
        self.augmentations, self.learning_rate = augmentations, learning_rate
        self.shift, self.flip, self.seed = shift, flip, seed
        self.model.requires_grad_(True)
        lay_out_planes(self.model)
        self.first = [parameter.detach().clone() for parameter in self.model.parameters()]

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C, each image's by its own adapted model."""
        try:
            logits = torch.cat([self._one(image) for image in batch])
        finally:
            self._restore()
        self.forward_passes += self.augmentations + 1
        self.backward_passes += self.augmentations
        return logits, None

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the weights that are restored."""
        self.first = [carried(fn, value) for value in self.first]

    def _one(self, image: Tensor) -> Tensor:
        """The logits 1 x C of one image by the model adapted to its views."""
        self._restore()
        parameters = list(self.model.parameters())
        with torch.enable_grad():
            seen = ask(self.model, self.views(image))
            log_mean = self.task.log_p(seen).logsumexp(dim=0) - math.log(len(seen))
            loss = nats(self.task.logits(log_mean), self.task)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=self.learning_rate)
            return ask(self.model, image[None])

    def views(self, image: Tensor) -> Tensor:
        """A shifted and mirrored views, A x C x H x W, of an image C x H x W; its pixels seed the draws."""
        pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
        draws = generator(self.seed, "memo", site=hashlib.sha256(pixels.tobytes()).hexdigest())
        alike = image[None].expand(self.augmentations, -1, -1, -1)
        return shifted(alike, self.shift, self.flip, draws)

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, value in zip(self.model.parameters(), self.first, strict=True):
            parameter.copy_(value)
