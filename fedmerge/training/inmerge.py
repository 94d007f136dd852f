"""In-Model Merging: pull similar filters of one network towards each other while it trains.

In-Model Merging (InMerge), arXiv 2502.20516. For a layer with filters K_1..K_n, each filter tries with
probability p one random other filter j of its layer, and where their cosine exceeds tau

    K_i <- alpha K_i + (1 - alpha) K_j                                                         (eq. 2)

In expectation a pass is one step of diffusion on the graph of similar filters:
E[K'_i] = K_i + p (1 - alpha) / (n - 1) * sum over {j: cos(K_i, K_j) > tau} of (K_j - K_i).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import unwrapped
from fedmerge.seeding import generator
from fedmerge.training.conv_layers import (
    LayerKind,
    following_batch_norm,
    own,
    places,
    select_convs,
)
from fedmerge.training.filters import draw_others, draw_pairs, merge_rows
from fedmerge.training.inmerge_options import checked
from fedmerge.training.inmerge_state import restore
from fedmerge.training.optimizer_steps import check_hooks, first_moments, moved, skipped


class InMerge:
    """In-Model Merging for any training loop: ``InMerge(model).attach(optimizer)``.

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

    What is frozen is never changed: a parameter that asks for no gradient, and, attached, one that is not
    the optimizer's; a batch norm with a frozen gamma keeps its statistics too. Frozen filters still draw, so
    freezing one layer changes nothing in another. A step that ``GradScaler`` skips is none: nothing is drawn,
    counted or merged (a fused optimizer on a GPU is waited for to know). Autocast changes nothing. A
    convolution used in several places is merged once a pass, and with bias "follow" the batch norms of all
    places follow.

    The model may be wrapped by ``DataParallel``, ``DistributedDataParallel`` (every process draws the same)
    or ``torch.compile``: layers have the names of the network inside. ``state_dict`` holds the draws and
    counts, so that a loop that is saved and loaded goes on with the same bits.

    The keywords are the fields of ``InMergeOptions``. Raises FedMergeError for a value out of range, where
    the selection of layers is empty, and for a weight that cannot be merged: a parametrised or pruned one,
    a complex one, a tensor subclass (see ``conv_layers.own``); that is looked at again in each pass.
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
        self.options = checked(
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
        if not isinstance(model, nn.Module):
            raise FedMergeError(f"InMerge merges filters of an nn.Module, not of a {type(model).__name__}.")
        model = unwrapped(model)
        self._convs = select_convs(model, layers, skip)
        for name in self._convs:
            self._weight(name)
        self._uses = {
            name: [(place, model.get_submodule(place), following_batch_norm(model, place)) for place in used]
            for name, used in ((name, places(model, conv)) for name, conv in self._convs.items())
        }
        if bias == "follow":
            for name in self._convs:
                self._followers(name, None)
        self._optimizer: torch.optim.Optimizer | None = None
        self._handle: RemovableHandle | None = None
        self.reset()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions that are merged while they are not frozen, in definition order."""
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

    def state_dict(self) -> dict[str, Any]:
        """Where the draws and the counts stand, for ``torch.save``; with the options they belong to."""
        return {
            "options": self.options.model_dump(),
            "seed": self.seed,
            "steps": self._steps,
            "merges": self.merges,
            "generator": self._generator.get_state(),
            "partners": self._partners.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was called: the next pass has the same draws, to the bit.

        Seed and counts become the state's; whether it is attached stays as it is. Raises FedMergeError, and
        changes nothing, for a state of other options or layers, or one that is damaged.
        """
        loaded = restore(state, self.options, self.layers)
        self.seed, self._steps, self._counts = loaded.seed, loaded.steps, {**loaded.merges}
        self._generator, self._partners = loaded.generator, loaded.partners

    def attach(self, optimizer: torch.optim.Optimizer) -> InMerge:
        """Run a pass after every ``every``-th step of ``optimizer``, and return self.

        It follows one optimizer at a time and leaves the former. Layers that are not in its groups are not
        merged. Raises FedMergeError for an optimizer without step hooks, and for one with none of the layers.
        """
        check_hooks(optimizer)
        self._held_by(optimizer)
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
        """Run one pass over all selected layers now.

        Raises FedMergeError for momentum "mix" without ``attach``, and where the optimizer has none of the
        layers any more.
        """
        held = None if self._optimizer is None else self._held_by(self._optimizer)
        layers = {name: self._weight(name) for name in self._convs}
        free = [name for name, weight in layers.items() if _free(weight, held)]
        companions = {name: self._companions(name, held) for name in free}
        sizes = [len(weight) for weight in layers.values()]
        trials, counts = draw_pairs(sizes, self.options.p, self._generator)
        if self.options.partner == "random":
            trials = torch.stack([*trials, draw_others(trials[0], sizes, counts, self._partners)])
        device = next(iter(layers.values())).device
        of = dict(zip(layers, trials.to(device, non_blocking=True).split(counts, dim=1), strict=True))
        with torch.autocast(device.type, enabled=False):
            for name in free:
                self._merge(name, of[name].to(layers[name].device), companions[name])

    def _merge(self, name: str, trials: Tensor, companions: list[Tensor]) -> None:
        """Carry out the trials of one layer (2 or 3 x m): filters, partners and, if not these, targets."""
        weight = self._weight(name)
        width = 1 if self.options.mode == "sequential" else max(1, trials.shape[1])
        for rows, partners, *targets in trials.split(width, dim=1):
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

    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if skipped(optimizer, kwargs):
            return
        self._steps += 1
        if self._steps % self.options.every == 0:
            self.step()

    def _held_by(self, optimizer: torch.optim.Optimizer) -> set[int]:
        """Return the ``id`` of each parameter of an optimizer, of which at least one is to be merged."""
        held = moved(optimizer)
        if held.isdisjoint(id(conv.weight) for conv in self._convs.values()):
            raise FedMergeError(
                f"InMerge has nothing to merge: {type(optimizer).__name__} has the weight of none of "
                f"{', '.join(self.layers)}. Give it those parameters (anew, where load_state_dict put others "
                "in their place), or set skip and layers to others."
            )
        return held

    def __deepcopy__(self, memo: dict[int, Any]) -> InMerge:
        """Copy it with its network and optimizer, and follow that one: torch copies no hooks."""
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__ | {"_handle": None}, memo))
        if made._optimizer is not None:
            made._handle = made._optimizer.register_step_post_hook(made._after_step)
        return made

    def _weight(self, name: str) -> Tensor:
        weight = own(self._convs[name], name, "weight")
        assert weight is not None
        return weight

    def _companions(self, name: str, held: set[int] | None) -> list[Tensor]:
        """Return the tensors that take the step of layer ``name`` with it; dimension 0 is its filters."""
        parameters, buffers = self._followers(name, held) if self.options.bias == "follow" else ([], [])
        moments: list[Tensor] = []
        if self.options.momentum == "mix":
            if self._optimizer is None:
                raise FedMergeError(
                    "InMerge with momentum='mix' needs the optimizer: call attach(optimizer) first."
                )
            moments = first_moments(self._optimizer, [self._weight(name), *parameters])
        return [*parameters, *buffers, *moments]

    def _followers(self, name: str, held: set[int] | None) -> tuple[list[Tensor], list[Tensor]]:
        """The biases and batch norms that belong to the filters of ``name``: free parameters, and buffers."""
        parameters: list[Tensor | None] = []
        buffers: list[Tensor | None] = []
        for place, conv, norm in self._uses[name]:
            parameters.append(own(conv, place, "bias"))
            if norm is None:
                continue
            gamma, beta = (own(norm, f"the batch norm behind {place}", key) for key in ("weight", "bias"))
            if gamma is None or _free(gamma, held):
                parameters += [gamma, beta]
                buffers += [norm.running_mean, norm.running_var]
        return _unique(p for p in parameters if p is not None and _free(p, held)), _unique(buffers)


def _free(parameter: Tensor, held: set[int] | None) -> bool:
    """Whether a parameter is trained: it asks for a gradient and is among ``held``, if that is known."""
    return parameter.requires_grad and (held is None or id(parameter) in held)


def _unique(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())
