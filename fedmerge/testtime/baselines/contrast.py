"""CONTRAST: online weights of the sources from their batch norms and the entropy of their mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import entries
from fedmerge.models.plain import plain
from fedmerge.models.state import check_alike, state_hash
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.adapted import Adapted
from fedmerge.testtime.baselines.sources import traced
from fedmerge.testtime.baselines.start import ask, check_step, nats
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import sample_entropies
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.norms import affine_parameters, use_batch_statistics
from fedmerge.testtime.online import Online, apart
from fedmerge.testtime.originals import Originals, networks
from fedmerge.testtime.source_fit import norm_distances


@TESTTIME.method(
    "contrast",
    title="CONTRAST",
    paper="CONTRAST: continual multi-source adaptation to dynamic distributions, arXiv 2401.02561",
    needs=Needs(individual_models=True, unlabelled_batches=True),
)
class Contrast(Online):
    """Weigh the sources' predictions anew for each batch, and adapt the source of largest weight alone.

        w = softmax(z),   z_0 = -(mean KL divergence of each source's batch norms from the batch's)
        z = z_0 - a g,    g = grad of mean over x of H(sum_j w_j p_j(x)),    a = g.g / (g.Hess g)
        p(x) = sum_j w_j p_j(x)

    and the source of largest w takes a step of Tent: Adam on the mean entropy of its own predictions over the
    scales and shifts of its norms, which use the batch's statistics. The logits returned are log p, before
    that step. KL as in ``source_fit``: of the batch's moments at a norm from its running statistics. Also
    known as MeTA.

    learning_rate: of Adam; optimise: whether the weights take the step a g, or stay softmax(z_0).

    Departures, where the texts we had leave it open: all batch norms are compared, their divergences
    averaged, where the paper has shallow layers; the step of second order is on z, and where the curvature
    g.Hess g is not positive a is 1. Networks without batch norm begin with equal weights.

    Cost: M forward passes a batch and one backward. What the sources learned is carried until ``reset()``.
    Raises FedMergeError for networks without affine norms, unfit options, models and batches, and logits that
    are not finite. One source has the weight 1: it is Tent on that source.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        learning_rate: float = 1e-3,
        optimise: bool = True,
    ) -> None:
        check_step(learning_rate, 1, "before")
        super().__init__()
        found = networks(models)
        self.networks = nn.ModuleList(plain(model) for model in found).requires_grad_(False)
        names = [f"models[{index}]" for index in range(len(found))]
        check_alike(names, [entries(network) for network in self.networks])
        self.originals = Originals(found, merged=False)
        self.hashes = [state_hash(entries(network)) for network in self.networks]
        self.optimise = optimise
        self.adapted = []
        for network in self.networks:
            norms = affine_parameters(network)
            if not norms:
                raise FedMergeError(
                    "contrast adapts the scales and shifts of normalisation layers, but these networks have "
                    "none: leave it out, or use entropy-weighted, which adapts nothing."
                )
            for parameter in norms:
                parameter.requires_grad_(True)
            self.adapted.append(Adapted(network, norms, learning_rate))

    def fingerprint(self) -> str:
        """The hash of each source as it was at first, and the dtypes that they have now."""
        return " ".join([*self.hashes, *sorted({str(value.dtype) for value in self.networks.parameters()})])

    def copied(self, index: int) -> nn.Module:
        """The copy of a source, before its norms are replaced on the first batch."""
        return self.networks[index]

    def reset(self) -> None:
        """Start a new stream: the sources as they were."""
        super().reset()
        for adapted in self.adapted:
            adapted.begin()

    def answer(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return log p, N x C, and the weights; adapt the source of largest weight."""
        for network in self.networks:
            use_batch_statistics(network)  # on the first batch, after the copies were compared
        with torch.enable_grad():
            passes = [self._pass(index, batch) for index in range(len(self.networks))]
        self.forward_passes += len(passes)
        logits = torch.stack([each.detach() for each, _ in passes])
        z = -torch.stack([distance for _, distance in passes])
        weights = torch.softmax(stepped(z, logits) if self.optimise and len(z) > 1 else z, dim=0)
        chosen = int(weights.argmax())
        with torch.enable_grad():
            self.adapted[chosen].step(nats(passes[chosen][0]).mean())
        self.backward_passes += 1
        for adapted in self.adapted:
            adapted.settle()
        log_p = (logits.log_softmax(dim=-1) + weights.log()[:, None, None]).logsumexp(dim=0)
        return log_p, traced(weights, sample_entropies(logits))

    def _pass(self, index: int, batch: Tensor) -> tuple[Tensor, Tensor]:
        with norm_distances(self.networks[index]) as far:
            logits = ask(self.networks[index], batch, f"models[{index}]")
        return logits, torch.stack(far).mean() if far else logits.new_zeros(())

    def stream_state(self) -> dict[str, Tensor]:
        """Each source's Adam."""
        return {
            f"{i}.{name}": value
            for i, adapted in enumerate(self.adapted)
            for name, value in adapted.state().items()
        }

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up each source's Adam; weights that it moved are no copies of the caller's models any more."""
        if any(not name.startswith(("method", "sources", "counts")) for name in state):
            self.originals = None
        for i, adapted in enumerate(self.adapted):
            start = f"{i}."
            adapted.take({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move each source's Adam."""
        for adapted in self.adapted:
            adapted.moved(fn)


def stepped(z: Tensor, logits: Tensor) -> Tensor:
    """Return z after one step of second order on the mixture's mean entropy; logits M x N x C."""
    p = torch.softmax(logits, dim=-1).double()

    def loss(z: Tensor) -> Tensor:
        mixture = (torch.softmax(z, dim=0)[:, None, None] * p).sum(dim=0)
        return -torch.special.xlogy(mixture, mixture).sum(dim=-1).mean() / math.log(logits.shape[-1])

    start = z.double()
    gradient = torch.func.grad(loss)(start)
    curvature = gradient @ torch.func.hessian(loss)(start) @ gradient
    length = torch.where(curvature > 0, gradient @ gradient / curvature, 1.0)
    return (start - length * gradient).to(z.dtype)
