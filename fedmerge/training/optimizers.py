"""PyTorch's optimizers without its compiler: the same steps, to the bit.

An optimizer of ``torch.optim`` loads ``torch._dynamo`` with its first group of parameters, which takes longer
than a small hospital's training, and marks every step for it. Nothing here is compiled.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)
MARKED = ("add_param_group", "load_state_dict", "zero_grad")


def eager(kind: type[Kind]) -> type[Kind]:
    """Return a subclass of an optimizer whose steps are not marked for the compiler.

    kind: an optimizer of ``torch.optim`` that is not differentiable. Its hooks, groups and state are as ever.
    """
    return cast(type[Kind], _eager(cast(Any, kind)))


@functools.cache
def _eager(kind: type[Optimizer]) -> type[Optimizer]:
    raw = inspect.unwrap(kind.step)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> Any:
        with torch.no_grad():
            return raw(self, closure)

    unmarked = {name: inspect.unwrap(getattr(kind, name)) for name in MARKED}
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "step": step, **unmarked})
