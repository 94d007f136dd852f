"""Networks without memory: built on PyTorch's meta device, where nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWS = (Tensor.normal_, Tensor.uniform_, Tensor.random_, Tensor.exponential_)


@contextmanager
def on_meta() -> Iterator[None]:
    """Give tensors that are made inside the block shapes and types, but no memory and no values.

    A draw on the meta device does nothing and takes a millisecond for each tensor, and the first one of a
    process imports PyTorch's compiler, which takes a second: here initialisations are left out.
    """
    with torch.device("meta"), _Undrawn():
        yield


def allocate(network: nn.Module) -> None:
    """Give a network that was built without memory its memory, on the CPU; its values are arbitrary.

    As ``network.to_empty(device="cpu")``, which imports PyTorch's compiler and symbolic algebra to do it.
    """
    network._apply(lambda tensor: torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype))


class _Undrawn(TorchFunctionMode):
    """Return a tensor of the meta device as it is where it would be initialised."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
