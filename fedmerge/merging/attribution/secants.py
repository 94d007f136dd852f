"""Operations on images and a baseline side by side whose backward pass hands back slopes of secants.

The first half of a batch are the images, the second their baselines. Contributions, slope times difference,
of what goes in add up to the difference of what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.errors import FedMergeError

LEAST = 1e-10  # smaller differences count as none: the derivative then replaces the slope


def depends_on_image(value: Any) -> bool:
    """Whether a value depends on the image: weights ask for no gradient."""
    if isinstance(value, list | tuple):
        return any(depends_on_image(each) for each in value)
    return isinstance(value, Tensor) and value.requires_grad


class Secant(torch.autograd.Function):
    """y = f(x) entry by entry; backward multiplies by (f(x) - f(x_0)) / (x - x_0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.f = f
        y = f(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        (gradient,) = gradients
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (derivative,) = torch.autograd.grad(ctx.f(point).sum(), point)
        run, rise = x - _other(x), y - _other(y)
        slope = torch.where(run.abs() < LEAST, derivative, rise / run)
        return gradient * slope, None


class Product(torch.autograd.Function):
    """c = f(a, b), linear in each; backward takes each derivative with the other factor at the midpoint."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(a, b)
        return f(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ((each + _other(each)) / 2 for each in ctx.saved_tensors)
        with torch.enable_grad():
            a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
            towards_a, towards_b = torch.autograd.grad(ctx.f(a, b), (a, b), gradients[0])
        return towards_a, towards_b, None


class Maximum(torch.autograd.Function):
    """Max-pooling. A rise from baseline to image goes to the entry of the image's maximum, a fall to that of
    the baseline's; each is divided by how far its entry moved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *pooling: Any) -> Tensor:
        y, indices = functional.max_pool2d(x, *pooling, return_indices=True)
        ctx.save_for_backward(x, y, indices)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, indices = ctx.saved_tensors
        (here, base), (at, at_base) = y.chunk(2), indices.chunk(2)
        gradient = gradients[0][: len(here)]
        top = torch.maximum(here, base)
        flat = torch.zeros_like(x[: len(here)]).flatten(2)
        flat = flat.scatter_add(2, at.flatten(2), (gradient * (top - base)).flatten(2))
        flat = flat.scatter_add(2, at_base.flatten(2), (gradient * (here - top)).flatten(2))
        run = x[: len(here)] - x[len(here) :]
        slope = torch.where(run.abs() < LEAST, torch.zeros_like(run), flat.view_as(run) / run)
        return torch.cat([slope, torch.zeros_like(slope)]), *[None] * (len(ctx.needs_input_grad) - 1)


def _other(both: Tensor) -> Tensor:
    """The baseline's entries beside the images', and the other way round."""
    return torch.cat(both.chunk(2)[::-1])


def secant(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    found: Tensor = Secant.apply(x, f)
    return found


def _multiplied(f: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    if not (depends_on_image(a) and depends_on_image(b)):
        return f(a, b)
    found: Tensor = Product.apply(a, b, f)
    return found


def _times(a: Tensor, b: Tensor) -> Tensor:
    return _multiplied(torch.mul, a, b)


def _divided(a: Tensor, b: Any) -> Tensor:
    return _times(a, secant(torch.reciprocal, b)) if depends_on_image(b) else a / b


def _max_pool2d(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: Any = False
) -> Tensor:
    found: Tensor = Maximum.apply(x, kernel, stride or kernel, padding, dilation, ceil)
    return found


def _softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """Return the softmax, shifted first by a constant for each image, which does not change it."""
    shift = x.detach().amax(dim, keepdim=True)
    shift = torch.maximum(shift, _other(shift))
    grown = secant(torch.exp, x - shift)
    return _divided(grown, grown.sum(dim, keepdim=True))


def _attention(query: Tensor, key: Tensor, content: Tensor, *rest: Any, scale: float | None = None) -> Tensor:
    if any(rest):
        raise FedMergeError("DeepLIFT has no rule for masked attention: take attribution: conductance.")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    likeness = _multiplied(torch.matmul, query, key.transpose(-2, -1))
    return _multiplied(torch.matmul, _softmax(likeness * factor, -1), content)


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    variance = secant(torch.square, centred).mean(dims, keepdim=True)
    return _times(centred, secant(torch.rsqrt, variance + eps))


def _layer_norm(
    x: Tensor, shape: list[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    y = _standardised(x, tuple(range(-len(shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    y = _standardised(x.reshape(len(x), groups, -1), (-1,), eps).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


RULES: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": _max_pool2d,
    "mul": _times,
    "div": _divided,
    "matmul": lambda a, b: _multiplied(torch.matmul, a, b),
    "softmax": _softmax,
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}
