"""Keep training away from a kernel of PyTorch that writes past its memory.

The gradient of the weights of a 1 x 1 convolution with a stride, of fewer than 8 input channels, corrupts the
heap where the images lie channels-last in memory: on the CPU, in oneDNN's kernel (PyTorch 2.14; found by
trying 1 to 60 channels, strides of 1 to 3, kernels of 1, 2, 3 and 7). Images laid out plane by plane take
another kernel. A ResNet of width 2 to 7 has such a convolution beside its second stage, and colour images of
an .npz file lie channels-last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

FEWEST = 8
"""Input channels from which the kernel is sound."""


@contextmanager
def sound_strides(network: nn.Module) -> Iterator[None]:
    """Lay out images plane by plane before each such convolution of a network, for the time of the block."""
    handles = lay_out_planes(network)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def lay_out_planes(network: nn.Module) -> list[RemovableHandle]:
    """Lay out images plane by plane before each such convolution; return the handles that end it.

    What lies so already is not copied, and its bits stay.
    """
    return [each.register_forward_pre_hook(_in_planes) for each in network.modules() if is_unsound(each)]


def is_unsound(module: nn.Module) -> bool:
    """Whether a module is a convolution with the kernel's fault."""
    return isinstance(module, nn.Conv2d) and max(module.stride) > 1 and is_narrow(module.weight)


def is_narrow(weight: Tensor) -> bool:
    """Whether these are the weights of a 1 x 1 convolution of images with fewer input channels than that."""
    return weight.ndim == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < FEWEST


def _in_planes(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in given)
