"""RoTTA: a teacher and a student that learn from a class-balanced memory, with robust batch norm."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.wide import wide
from fedmerge.registry import Needs
from fedmerge.seeding import generator
from fedmerge.testtime.baselines.adapted import Adapted
from fedmerge.testtime.baselines.learning import LearningNorm, Remembering, check_memory, learning
from fedmerge.testtime.baselines.memories import keep_sure_and_new
from fedmerge.testtime.baselines.start import MergedBatchNorm, ask, check_step, nats
from fedmerge.testtime.baselines.views import shifted
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.norms import affine_parameters, replace_norms
from fedmerge.testtime.online import apart

NOISE = 0.005
"""Of the strong view, in units of normalised pixels, as in the reference."""


@TESTTIME.method(
    "rotta",
    title="RoTTA",
    paper="Robust test-time adaptation in dynamic scenarios, arXiv 2303.13899",
    needs=Needs(unlabelled_batches=True),
)
class Rotta(Remembering):
    """Answer with a teacher that follows a student, both on a memory of sure, new and class-balanced images.

    From the mean-merged model, by the released program. Every image, with the class and the entropy that the
    teacher gives it, is offered to the memory (``memories.keep_sure_and_new``). After each ``every`` images
    the student takes a step of Adam on

        mean over the memory of e^-a / (1 + e^-a) sum_c -p_teacher,c(x) log p_student,c(strong view of x)

    with a the age in units of the memory, over the scales and shifts of its norms; then
    teacher <- (1 - nu) teacher + nu student. Batch norms are robust: in these passes, and only there, their
    statistics move by ``momentum`` towards the memory's and are used so moved.

    capacity, every: 64 each, the paper's. learning_rate 1e-3, nu 1e-3 and momentum 0.05 are the paper's.
    flip: whether strong views are mirrored. seed: of the strong views. batch_norm: how the statistics to
    start from are merged.

    Departures: the strong view is a shift by up to a tenth of the side, a mirror image and noise, where the
    paper has CoTTA's colours and affine maps, made for natural images; an update that falls inside a batch is
    taken after the batch has been answered.

    Cost: one forward pass a batch; an update adds two forward passes and one backward over the m images of
    the memory, m / N of a batch each. What was learned is carried until ``reset()``. Raises FedMergeError for
    a network without affine norms, unfit options, models and batches, and logits that are not finite.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        capacity: int = 64,
        every: int = 64,
        learning_rate: float = 1e-3,
        nu: float = 1e-3,
        momentum: float = 0.05,
        flip: bool = True,
        seed: int = 0,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        check_step(learning_rate, 1, "before")
        check_memory(capacity, every)
        if not (0 <= nu <= 1 and 0 <= momentum <= 1):
            raise FedMergeError(f"nu is {nu} and momentum {momentum}; both must be within 0 and 1.")
        super().__init__(models, batch_norm)
        self.every, self.nu, self.flip, self.seed = every, nu, flip, seed
        replace_norms(self.model, lambda name, norm: RobustNorm(norm, momentum))
        self.student = copy.deepcopy(self.model)
        norms = affine_parameters(self.student)
        if not norms:
            raise FedMergeError(
                "rotta adapts the scales and shifts of normalisation layers, but this network has none: "
                "leave it out, or use shot, which adapts every layer of the encoder."
            )
        for parameter in norms:
            parameter.requires_grad_(True)
        self.adapted = Adapted(self.student, norms, learning_rate)
        self.remember(capacity, self.model, self.student)

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the teacher's logits N x C; learn where enough images have come."""
        with torch.no_grad():
            logits = ask(self.model, batch)
        self.forward_passes += 1
        labels, entropies = logits.argmax(dim=1).tolist(), nats(logits).tolist()
        for image, label, entropy in zip(batch, labels, entropies, strict=True):
            keep_sure_and_new(self.memory, image.clone(), label, entropy, logits.shape[1])
            if sum(self.memory.counts) % self.every == 0:
                self._learn(batch)
        return logits, None

    def _learn(self, batch: Tensor) -> None:
        images, ages = self.memory.images(batch), self.memory.ages().to(batch.device)
        share = len(images) / len(batch)
        draws = generator(self.seed, "rotta", round=sum(self.memory.counts))
        noise = NOISE * torch.randn(images.shape, generator=draws).to(images)
        views = shifted(images, 0.1, self.flip, draws) + noise
        with torch.no_grad(), learning(self.model):
            target = torch.softmax(ask(self.model, images, "the teacher"), dim=1)
        with torch.enable_grad(), learning(self.student):
            log_p = torch.log_softmax(ask(self.student, views, "the student"), dim=1)
            self.adapted.step((-(target * log_p).sum(dim=1) * torch.sigmoid(-ages)).mean())
        self.adapted.settle()
        self.forward_passes += 2 * share
        self.backward_passes += share
        with torch.no_grad():
            for mine, its in zip(self.model.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(its.detach(), self.nu)


class RobustNorm(LearningNorm):
    """A batch norm whose statistics move towards a batch's in passes inside ``learning``, and only there.

    mean <- (1 - momentum) mean + momentum batch_mean,    var likewise, biased
    """

    def __init__(self, norm: _BatchNorm, momentum: float) -> None:
        super().__init__(norm)
        self.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, N x C x ... ."""
        if self.running_mean is None or self.running_var is None:
            return super().forward(x)
        mean, var, seen = wide(self.running_mean), wide(self.running_var), wide(x)
        if self.learns:
            dims = [0, *range(2, x.ndim)]
            mean = torch.lerp(mean, seen.mean(dims), self.momentum)
            var = torch.lerp(var, seen.var(dims, correction=0), self.momentum)
            self.running_mean.copy_(mean.detach())
            self.running_var.copy_(var.detach())
        shape = (1, -1, *[1] * (x.ndim - 2))
        out = (seen - mean.view(shape)) * (var.view(shape) + self.eps).rsqrt()  # gradients go through both
        if self.weight is not None:
            out = out * wide(self.weight).view(shape) + wide(self.bias).view(shape)
        return out.to(x.dtype)
