"""The encoding of numbers for secure sums as integers modulo 2^64, and the decoding of their total.

A weight x of a hospital with n images is encoded as ``n * round(2^30 x)``, one word: a mean weighted by
images is rounded by at most 2^-31. Other numbers (counts, scores, Gram matrices) have any size, so each is
encoded as a fixed-point number of 96 bits, with an error of at most 2^-45, in two words of 48 bits; their
sums have room for thousands of hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.secure_sum import Words
from fedmerge.models.entries import running_pairs
from fedmerge.models.state import BatchNormPolicy, State
from fedmerge.tasks import Task

BITS = 30  # binary places of a weight
PLACES, LIMB = 44, 48  # binary places of a wide number, and bits of its lower word
WIDEST = 2.0 ** (LIMB - 2 + LIMB - PLACES)  # above every wide number
SUM = 2.0**62
TRAINED = ("accuracy", "loss", "merges", "steps")
"""A hospital's numbers about its training in a secure round, beside its number of images."""
SCORED = ("accuracy", "balanced_accuracy", "loss")
"""A hospital's scores of a model; with ``calibrate``, ``temperature`` comes in addition."""
DEFINED = " defined"
"""Behind the name of a score: the share of images at hospitals where it is defined."""
SPOILT = "a hospital sent other numbers than asked for"
Floats = np.ndarray[Any, np.dtype[np.float64]]


class NoSum(FedMergeError):
    """A secure sum could not be formed, or is invalid: its round is void."""


def scored(task: Task) -> tuple[str, ...]:
    """Return the names of a hospital's scores of a model: ``SCORED``, and the task's own."""
    return SCORED if task.headline in SCORED else (*SCORED, task.headline)


def encode_weights(state: State, images: int, batch_norm: BatchNormPolicy) -> Words:
    """Return ``images * round(2^30 x)`` for every number x of a state's float entries, in order of names.

    With batch norm's ``mixture`` a running variance v is encoded as ``v + mean^2``, whose weighted sum is
    that of the mixture. Raises FedMergeError for numbers that are not finite or far too large.
    """
    values = dict(state)
    if batch_norm == "mixture":
        for mean, var in running_pairs(state):
            values[var] = state[var].double() + state[mean].double().square()
    flat = flatten(values)
    largest = float(np.abs(flat).max(initial=0.0))
    if not largest * images * 2.0**BITS < SUM:
        raise FedMergeError(
            f"weights up to {largest:g} cannot be summed securely over {images} images: they must be "
            f"finite and below {SUM / images / 2.0**BITS:g}."
        )
    return (np.rint(flat * 2.0**BITS).astype(np.int64) * np.int64(images)).view(np.uint64)


def decode_weights(total: Words, start: State, images: int, batch_norm: BatchNormPolicy) -> State:
    """Return the mean weighted by images from the sum of all participants' numbers.

    Shapes, dtypes and integer entries are those of ``start``.
    """
    means = torch.from_numpy(total.view(np.int64) / (images * 2.0**BITS))
    keys = floats(start)
    parts = means.split([start[key].numel() for key in keys])
    found = {key: part.view(start[key].shape) for key, part in zip(keys, parts, strict=True)}
    if batch_norm == "mixture":
        for mean, var in running_pairs(start):
            found[var] = (found[var] - found[mean].square()).clamp(min=0)
    return {key: found[key].to(value.dtype) if key in found else value for key, value in start.items()}


def encode_wide(numbers: Floats) -> Words:
    """Encode each number in two words: ``floor(x 2^44 / 2^48)`` and the rest. FedMergeError for NaN."""
    if not np.all(np.abs(numbers) < WIDEST):
        raise FedMergeError(
            f"numbers that are not finite, or not below {WIDEST:.3g}, cannot be summed securely."
        )
    whole = np.rint(numbers * 2.0**PLACES)
    high = np.floor(whole * 2.0**-LIMB)
    return np.stack([high, whole - high * 2.0**LIMB]).astype(np.int64).view(np.uint64).reshape(-1)


def decode_wide(total: Words) -> Floats:
    """Return the sums of numbers whose ``encode_wide``, added over all participants, give ``total``."""
    high, low = total.view(np.int64).reshape(2, -1)
    high = high + (low >> LIMB)  # an arithmetic shift: the carry
    low = low & ((1 << LIMB) - 1)
    return np.ldexp(high.astype(np.float64), LIMB - PLACES) + np.ldexp(low.astype(np.float64), -PLACES)


def encode_means(images: int, values: Mapping[str, float]) -> Words:
    """Encode a number of images, and means over them, in the order of their names."""
    weighted = [float(images), *(images * float(values[name]) for name in sorted(values))]
    return encode_wide(np.array(weighted))


def encode_scores(images: int, scores: Mapping[str, float], task: Task) -> Words:
    """Encode a hospital's scores of a model; of one that is not defined (NaN), that no image is behind it."""
    own = _own(task)
    values = dict(scores)
    for name in own:
        defined = not math.isnan(values[name])
        values |= {name: values[name] if defined else 0.0, f"{name}{DEFINED}": float(defined)}
    return encode_means(images, values)


def decode_scores(total: Words, names: Sequence[str], task: Task) -> dict[str, float]:
    """Return the means that ``encode_scores`` gives; NaN for a score that no hospital has. Raises NoSum."""
    own = _own(task)
    means = decode_means(total, [*names, *(f"{name}{DEFINED}" for name in own)])
    for name in own:
        share = means.pop(f"{name}{DEFINED}")
        means[name] = means[name] / share if share > 1e-9 else math.nan
    return means


def words_of_scores(names: Sequence[str], task: Task) -> int:
    """Return in how many words scores with these names are encoded."""
    return 2 * (1 + len(names) + len(_own(task)))


def _own(task: Task) -> tuple[str, ...]:
    """Return the scores that may be not defined."""
    return tuple(name for name in scored(task) if name not in SCORED)


def decode_means(total: Words, names: Sequence[str]) -> dict[str, float]:
    """Return ``num-examples`` of all hospitals, and the means over all their images. Raises NoSum.

    A hospital that sends other numbers is likely to be noticed: a count must be a whole number above 0, an
    accuracy between 0 and 1, a loss not below 0.
    """
    images, *sums = decode_wide(total).tolist()
    if images < 1 or images != round(images) or images > 2.0**40:
        raise NoSum(f"the sum says that it is over {images:g} images: {SPOILT}")
    means = {name: value / images for name, value in zip(sorted(names), sums, strict=True)}
    for name, value in means.items():
        share = name.endswith(("accuracy", DEFINED)) or name in ("auroc", "kappa")
        highest = 1.0 if share else 2.0**40
        lowest = -1.0 if name == "kappa" else 0.0
        if not lowest - 1e-9 <= value <= highest + 1e-9:
            raise NoSum(f"the sum gives {name} {value:g}: {SPOILT}")
    return {"num-examples": int(images)} | means


def flatten(state: Mapping[str, torch.Tensor]) -> Floats:
    """Return all numbers of the float entries, in the order of their names."""
    parts = [state[key].detach().double().reshape(-1).cpu() for key in floats(state)]
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def floats(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the float entries, in order."""
    return sorted(key for key, value in state.items() if value.is_floating_point())
