"""In-Model Merging: pull similar filters of one network towards each other while it trains.

In-Model Merging (InMerge), arXiv 2502.20516. For a layer with filters K_1..K_n, each filter tries with
probability p one random other filter j of its layer, and where their cosine exceeds tau

    K_i <- alpha K_i + (1 - alpha) K_j                                                         (eq. 2)

In expectation a pass is one step of diffusion on the graph of similar filters:
E[K'_i] = K_i + p (1 - alpha) / (n - 1) * sum over {j: cos(K_i, K_j) > tau} of (K_j - K_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedmerge.errors import FedMergeError
from fedmerge.seeding import generator
from fedmerge.training.conv_layers import LayerKind, following_batch_norm, select_convs
from fedmerge.training.filters import draw_others, draw_pairs, merge_rows


class InMergeOptions(BaseModel):
    """The settings of In-Model Merging; the defaults are the paper's.

    alpha: what a filter keeps of itself. tau: the cosine above which (strictly) a pair is merged; below
    -1 every pair is. p: the probability that a filter tries a partner. skip, layers: see ``select_convs``.
    every: optimizer steps per pass. mode: "simultaneous" reads only unmodified filters (the paper's),
    "sequential" goes through the filters in order and reads those already merged. bias "follow": the
    convolution's bias and the following batch norm's gamma, beta, running mean and running variance take
    the same step. momentum "mix": the optimizer's first moments of the merged parameters take it too.
    restore_norm: a merged filter is scaled back to its norm before the merge. partner: what a filter that is
    merged moves towards: "similar", the one it tried (the paper's), or "random", any other (see ``InMerge``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(0.8, ge=0, le=1)
    tau: float = Field(0.3, ge=-2, le=1)
    p: float = Field(0.3, ge=0, le=1)
    skip: int | float | None = None
    layers: LayerKind = "spatial"
    every: int = Field(1, ge=1)
    mode: Literal["simultaneous", "sequential"] = "simultaneous"
    bias: Literal["leave", "follow"] = "leave"
    momentum: Literal["leave", "mix"] = "leave"
    restore_norm: bool = False
    partner: Literal["similar", "random"] = "similar"

    @field_validator("skip")
    @classmethod
    def _count_or_fraction(cls, skip: int | float | None) -> int | float | None:
        if skip is not None and not (0 <= skip < 1 or (isinstance(skip, int) and skip >= 1)):
            raise ValueError("skip is a count (0, 1, 2, ...) or a fraction from 0 up to, not including, 1")
        return skip


class InMerge:
    """In-Model Merging for anybody's training loop: ``InMerge(model).attach(optimizer)``.

    Attached, a pass runs right after an optimizer step, so only in training. After step t is before the
    forward pass of step t + 1, where the paper merges: the weights go through the same sequence, except
    that nothing is merged before the first step and that the last step is followed by a pass. The authors'
    released code also merges before every validation batch; here validation never changes a weight.

    A pass is vectorised and costs only the rows that try a partner: with gates
    g_i = [u_i < p] [cos(K_i, K_pi(i)) > tau], it is K' = K + (1 - alpha) g (K_pi - K), written in place.
    All draws come from a CPU generator of (seed, "inmerge"), so they do not depend on the device, and on a
    GPU nothing waits for the host. A filter of norm zero has cosine 0 with every other.

    partner "random" is a control, ours and not the paper's, that tells what similarity does from what any
    such disturbance does. The gate stays g_i, so the same filters are merged as often and with the same
    share 1 - alpha, but each moves towards a filter drawn anew, uniformly, from the others of its layer.
    Those draws come from a generator of their own, (seed, "inmerge-partner"), so from the same weights both
    kinds merge the very same filters. A step towards a less similar filter is longer and loses more norm
    (see ``restore_norm``), and from then on the weights, and with them the gates, go their own ways.

    The keywords are the fields of ``InMergeOptions``. Raises FedMergeError for a value out of range, and
    where the selection of layers is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 0.8,
        tau: float = 0.3,
        p: float = 0.3,
        skip: int | float | None = None,
        layers: LayerKind = "spatial",
        every: int = 1,
        mode: Literal["simultaneous", "sequential"] = "simultaneous",
        bias: Literal["leave", "follow"] = "leave",
        momentum: Literal["leave", "mix"] = "leave",
        restore_norm: bool = False,
        partner: Literal["similar", "random"] = "similar",
        seed: int = 0,
    ) -> None:
        self.options = _checked(
            alpha=alpha,
            tau=tau,
            p=p,
            skip=skip,
            layers=layers,
            every=every,
            mode=mode,
            bias=bias,
            momentum=momentum,
            restore_norm=restore_norm,
            partner=partner,
        )
        self.seed = seed
        self._convs = select_convs(model, layers, skip)
        self._norms = {name: following_batch_norm(model, name) for name in self._convs}
        self._optimizer: torch.optim.Optimizer | None = None
        self._handle: RemovableHandle | None = None
        self.reset()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions that are merged, in definition order."""
        return tuple(self._convs)

    @property
    def merges(self) -> dict[str, int]:
        """How many filters of each layer have been merged since the start or the last ``reset``."""
        return {name: int(count) for name, count in self._counts.items()}

    def reset(self) -> None:
        """Set the counts to zero and the draws back to the seed's first."""
        self._generator = generator(self.seed, "inmerge")
        self._partners = generator(self.seed, "inmerge-partner")
        self._counts: dict[str, int | Tensor] = dict.fromkeys(self._convs, 0)
        self._steps = 0

    def attach(self, optimizer: torch.optim.Optimizer) -> InMerge:
        """Run a pass after every ``every``-th step of ``optimizer``, and return self."""
        self.detach()
        self._optimizer = optimizer
        self._handle = optimizer.register_step_post_hook(self._after_step)
        return self

    def detach(self) -> None:
        """Stop following the optimizer; the counts stay."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._optimizer = None

    @torch.no_grad()
    def step(self) -> None:
        """One pass over all selected layers, now; FedMergeError for momentum "mix" without ``attach``."""
        weights = [conv.weight for conv in self._convs.values()]
        sizes = [len(weight) for weight in weights]
        trials, counts = draw_pairs(sizes, self.options.p, self._generator)
        if self.options.partner == "random":
            trials = torch.stack([*trials, draw_others(trials[0], sizes, counts, self._partners)])
        trials = trials.to(weights[0].device, non_blocking=True)
        for name, weight, layer_trials in zip(self._convs, weights, trials.split(counts, dim=1), strict=True):
            width = 1 if self.options.mode == "sequential" else max(1, layer_trials.shape[1])
            companions = self._companions(name)
            for rows, partners, *targets in layer_trials.to(weight.device).split(width, dim=1):
                self._counts[name] += merge_rows(
                    weight,
                    rows,
                    partners,
                    targets=targets[0] if targets else None,
                    alpha=self.options.alpha,
                    tau=self.options.tau,
                    restore_norm=self.options.restore_norm,
                    companions=companions,
                )

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._steps += 1
        if self._steps % self.options.every == 0:
            self.step()

    def _companions(self, name: str) -> list[Tensor]:
        """What else takes the step of layer ``name``: tensors whose first dimension is its filters."""
        conv, norm = self._convs[name], self._norms[name]
        parameters: list[Tensor | None] = [conv.weight]
        buffers: list[Tensor | None] = []
        if self.options.bias == "follow":
            parameters.append(conv.bias)
            if norm is not None:
                parameters += [norm.weight, norm.bias]
                buffers += [norm.running_mean, norm.running_var]
        moments = self._moments(parameters) if self.options.momentum == "mix" else []
        return [tensor for tensor in [*parameters[1:], *buffers, *moments] if tensor is not None]

    def _moments(self, parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
        if self._optimizer is None:
            raise FedMergeError(
                "InMerge with momentum='mix' needs the optimizer: call attach(optimizer) first."
            )
        states = [self._optimizer.state.get(p, {}) for p in parameters if p is not None]
        return [state.get(key) for state in states for key in ("momentum_buffer", "exp_avg")]


def _checked(**given: Any) -> InMergeOptions:
    try:
        return InMergeOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise FedMergeError(
            f"InMerge, option '{first['loc'][0]}': {first['msg']} (given: {first['input']!r})."
        ) from None
