"""Gaussian noise for privacy: drawn from the operating system, on a grid, never stored.

Whoever has the seed of noise can subtract the noise. So noise comes from ``os.urandom`` (the kernel's
cryptographic generator): it has no state here that could be stored, copied by a fork or requested again, and
the same noise is never drawn a second time.

Gaussian noise in floating point has two faults, and both are avoided:

- **The last bits of a sum reveal its parts** (Mironov 2012, doi 10.1145/2382196.2382264): not every float can
  be reached from every value. Here sums and noise are integers, in units of a ``step`` that depends on the
  options alone: ``S + round(G) = round(S + G)`` for an integer S. The release is thus a rounded Gaussian
  mechanism; rounding costs no privacy, and the accountant of the continuous Gaussian holds.
  (The discrete Gaussian of OpenDP would do as well, but its exact sampler needs rational arithmetic for each
  of a network's millions of weights.)
- **A generator of 53-bit uniform numbers leaves gaps in G itself** (Holohan and Braghin, arXiv 2107.10138):
  each draw is half the sum of four independent ones, as in Opacus' ``secure_mode``, and a step is 2^-24 of
  the noise's deviation, so that every integer stands for very many values of G.

Flower's own noise is ``numpy.random.normal`` (1.42, ``flwr.supercore.differential_privacy``): a Mersenne
twister that a program may have seeded, added as floats. It is not used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fedmerge.seeding import generator

Draw = Callable[[int], Tensor]
"""A function of a count that draws so many independent standard normal numbers, float64."""

MARGIN = 1 - 2.0**-30  # far more than the rounding error of a length in float64
_PIECE = 2**18
_BITS = 2**53


def from_the_system(count: int) -> Tensor:
    """Draw ``count`` standard normal numbers from the operating system's randomness."""
    drawn = torch.empty(count, dtype=torch.float64)
    for begin in range(0, count, _PIECE):
        part = drawn[begin : begin + _PIECE]
        part.copy_(_normals(max(len(part), 2))[: len(part)])
    return drawn


def from_the_seed(seed: int, purpose: str, round: int, site: str = "") -> Draw:
    """Return a repeatable draw, for simulations only: whoever knows the seed can subtract the noise."""
    draws = generator(seed, purpose, round, site)
    return lambda count: torch.randn(count, generator=draws, dtype=torch.float64)


def _normals(count: int) -> Tensor:
    """Draw by Box-Muller, four draws per number; cosine and sine of one pair never go into one number."""
    words = torch.frombuffer(bytearray(os.urandom(32 * count)), dtype=torch.int64)
    uniform = words.bitwise_and_(_BITS - 1).double().add_(0.5).div_(_BITS)
    radius = uniform[: 2 * count].log().mul_(-2).sqrt_()
    angle = uniform[2 * count :].mul(2 * math.pi)
    cosines = (radius * angle.cos()).view(2, count).sum(0)
    sines = (radius * angle.sin()).view(2, count).sum(0)
    return cosines.add_(sines.roll(1)).div_(2)


def step_of(deviation: float, clip: float) -> float:
    """Return the grid step of sums and their noise: a power of two, 2^-24 of the deviation or a little less.

    It must not depend on any update. At least 2^-41 of ``clip``, so that sums of a million fit into 64 bits.
    """
    return float(2.0 ** math.floor(math.log2(max(deviation * 2.0**-24, clip * 2.0**-40))))


def shortened(update: Mapping[str, Tensor], clip: float, step: float) -> tuple[dict[str, Tensor], bool]:
    """Return an update as integers in units of ``step``, clipped to ``clip``, and whether it was within it.

    The length of the integers, times ``step``, is at most ``clip``: numbers are rounded towards zero. An
    update with a number that is not finite counts as nothing. The float64 tensors of ``update`` are
    overwritten.
    """
    length, within = norm(update.values()), False
    if math.isfinite(length):
        within = length <= clip * MARGIN
    else:  # squares beyond a float64, or numbers that are not finite
        peak = [float(value.abs().max()) for value in update.values() if value.numel()]
        if not all(map(math.isfinite, peak)):  # torch's max of a tensor with a NaN is NaN
            return {key: torch.zeros(value.shape, dtype=torch.int64) for key, value in update.items()}, False
        for value in update.values():  # far longer than any clip, so only the direction counts
            value.div_(max(peak))
        length = norm(update.values())
    scale = (1.0 if within else clip * MARGIN / length) / step
    return {key: value.mul_(scale).trunc_().to(torch.int64) for key, value in update.items()}, within


def noised(sums: Mapping[str, Tensor], deviation: float, step: float, draw: Draw) -> dict[str, Tensor]:
    """Add noise of ``deviation`` to integers in units of ``step``; return float64 in plain units."""
    return {
        key: (value + draw(value.numel()).mul_(deviation / step).round_().to(torch.int64).view(value.shape))
        .double()
        .mul_(step)
        for key, value in sums.items()
    }


def norm(values: Iterable[Tensor]) -> float:
    """Return the L2 norm over all tensors, in float64."""
    return math.sqrt(sum(float(torch.dot(flat, flat)) for flat in (v.double().reshape(-1) for v in values)))
