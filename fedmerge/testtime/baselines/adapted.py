"""The parameters that a method adapts by gradients, their first values, and the Adam over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.narrow_strides import lay_out_planes
from fedmerge.models.wide import HALVES, wide
from fedmerge.testtime.online import Online, carried

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SCALE = 2.0**12
"""By which the loss of a float16 network is multiplied, as in mixed-precision training; its gradients are
divided by it again in float32. It is halved until no gradient overflows."""
LEAST = 2.0**-12


@dataclass(eq=False)
class Adapted:
    """Some parameters of a network under Adam.

    Parameters of float16 or bfloat16 are adapted as float32 masters and rounded into the network after each
    step: in float16 Adam's squared gradients would be 0. Wider ones are adapted themselves.

    network: through which gradients pass. parameters: those adapted. bounds: the range in which they are held
    after each step; None: any.
    """

    network: nn.Module
    parameters: Sequence[nn.Parameter]
    learning_rate: float
    bounds: tuple[float, float] | None = None
    first: list[Tensor] = field(init=False)
    masters: list[Tensor] = field(init=False)
    optimizer: torch.optim.Adam = field(init=False)

    def __post_init__(self) -> None:
        self.first = [wide(each).detach().clone() for each in self.parameters]
        lay_out_planes(self.network)
        self.begin()

    def __len__(self) -> int:
        """The number of parameters."""
        return len(self.parameters)

    @torch.no_grad()
    def begin(self) -> None:
        """Set everything to its first values, and begin a new Adam."""
        for parameter, value in zip(self.parameters, self.first, strict=True):
            parameter.copy_(value)
            parameter.grad = None
        self._renew({})

    def step(self, loss: Tensor) -> None:
        """One step of Adam down the gradient of ``loss``. Raises FedMergeError where it overflows."""
        gradients = self._gradients(loss)
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = None if gradient is None else gradient.to(master.dtype)
        self.optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if self.bounds is not None:
                    master.clamp_(*self.bounds)
                if master is not parameter:
                    parameter.copy_(master)

    def settle(self) -> None:
        """Release graphs that the network keeps in attributes, as old weight norms and pruning do."""
        for module in self.network.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    setattr(module, name, value.detach())

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the network where ``fn`` of ``Module._apply`` took it."""
        self.first = [carried(fn, value) for value in self.first]
        self._renew(self.state())

    def state(self) -> dict[str, Tensor]:
        """Adam's moments, and the masters, by name; nothing before the first step."""
        found: dict[str, Tensor] = {}
        for number, (parameter, master) in enumerate(zip(self.parameters, self.masters, strict=True)):
            moments = self.optimizer.state.get(master, {})
            found |= {f"{name}.{number}": moments[name] for name in _MOMENTS if name in moments}
            if moments and master is not parameter:
                found[f"master.{number}"] = master
        return found

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take up what ``state`` gave; the parameters themselves are the network's to load."""
        self._renew(state)

    def _gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        if all(each.dtype != torch.float16 for each in self.network.parameters()):
            return torch.autograd.grad(loss, list(self.parameters), allow_unused=True)
        scale = SCALE
        while scale >= LEAST:
            found = torch.autograd.grad(
                loss * scale, list(self.parameters), allow_unused=True, retain_graph=True
            )
            if all(each is None or bool(each.isfinite().all()) for each in found):
                return [None if each is None else each.float() / scale for each in found]
            scale /= 2
        raise FedMergeError(
            "the gradients of this batch overflow float16; convert the models to bfloat16 or float32."
        )

    @torch.no_grad()
    def _renew(self, state: Mapping[str, Tensor]) -> None:
        """New masters and a new Adam, from a state as :meth:`state` gives it."""
        self.masters = []
        for number, parameter in enumerate(self.parameters):
            begun = state.get(f"master.{number}", parameter.detach() if state else self.first[number])
            half = parameter.dtype in HALVES
            self.masters.append(begun.float().to(parameter.device, copy=True) if half else parameter)
        for master in self.masters:
            master.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.masters, lr=self.learning_rate)
        for number, master in enumerate(self.masters):
            moments = {name: state[f"{name}.{number}"] for name in _MOMENTS if f"{name}.{number}" in state}
            if moments:
                self.optimizer.state[master] = {
                    name: value.clone() if name == "step" else value.to(master)
                    for name, value in moments.items()
                }


class Snapshot:
    """The parameters and buffers of a network as they were at first."""

    def __init__(self, module: nn.Module) -> None:
        self.values = {name: value.detach().clone() for name, value in tensors(module).items()}

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Set them to what they were."""
        for name, value in tensors(module).items():
            value.copy_(self.values[name])

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the network where ``fn`` of ``Module._apply`` took it."""
        self.values = {name: carried(fn, value) for name, value in self.values.items()}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network by name."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


class UnderAdam(Online):
    """A method that carries only its ``adapted`` parameters and their Adam from batch to batch."""

    adapted: Adapted

    def reset(self) -> None:
        """Start a new stream: the parameters as they were at first, a new Adam, no passes."""
        super().reset()
        self.adapted.begin()

    def stream_state(self) -> dict[str, Tensor]:
        """Adam's moments, and the masters."""
        return self.adapted.state()

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up Adam's moments, and the masters."""
        self.adapted.take(state)

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move Adam."""
        self.adapted.moved(fn)
