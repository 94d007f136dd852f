"""Gaussian noise on a hospital's sums, to which each image contributes a bounded part.

It is the one protection that also helps against a server whose weights single out an image. An image's part
of a sum is scaled down to a norm of at most b; the noise of every number has deviation z b. So each sum is a
Gaussian mechanism with multiplier z (adding an image or taking it away changes it by at most b), and
``SumRules.spent`` adds up their cost. The numbers of images and rows are told exactly.

b = clip x positions x sqrt(numbers in the sum): ``clip`` is about the root mean square of a number, for each
position. The noise is drawn from a key of the hospital's own (32 bytes of the system's randomness) and the
whole request, through AES-CTR: it is as good as fresh to everybody without the key, and a repeated request
gets the same reply, so that averaging over repeated requests does not remove it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from fedmerge.federation.hospital.sums.rank import positions
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.federation.packing import pack
from fedmerge.merging.neurons.statistics import LocalStatistics, Sums, norms
from fedmerge.models.graph import Program


def is_count(key: str) -> bool:
    """Check whether a sum is a number of images or rows."""
    return key in ("images", "rows") or key.startswith("rows/") or key.endswith("/images")


def clipped_sums(
    each: Sequence[LocalStatistics],
    program: Program,
    kind: str,
    options: dict[str, Any],
    tensors: Mapping[str, Tensor],
    rules: SumRules,
) -> tuple[Sums, dict[str, float]]:
    """Return the packed sum of the images' parts, each scaled down to its bound, and the bounds.

    each: the statistics of one image each.
    """
    total: Sums = {}
    bounds: dict[str, float] = {}
    for one in each:
        for key, part in pack(kind, one.ask(kind, options, tensors)).items():
            if not is_count(key):
                bounds[key] = rules.clip * _places(program, kind, options, key) * math.sqrt(part.numel())
                norm = float(part.norm())
                part = part * min(1.0, bounds[key] / norm) if norm > 0 else part
            total[key] = total[key] + part if key in total else part
    return total, bounds


def noise_seed(key: bytes, digest: str) -> bytes:
    """Return the secret seed of the noise for one request. digest: of the request."""
    return hmac.new(key, b"noise " + digest.encode(), hashlib.sha256).digest()


def add_noise(sums: Sums, bounds: Mapping[str, float], multiplier: float, seed: bytes) -> Sums:
    """Return sums with noise of deviation multiplier x bound on each number. seed: see ``noise_seed``."""
    noised = dict(sums)
    for key, bound in bounds.items():
        own = hmac.new(seed, key.encode(), hashlib.sha256).digest()
        drawn = torch.from_numpy(gaussian(own, sums[key].numel())).reshape(sums[key].shape)
        noised[key] = sums[key] + multiplier * bound * drawn
    return noised


def gaussian(key: bytes, count: int) -> np.ndarray:
    """Return ``count`` standard normal numbers from the key stream of AES-256-CTR, by Box and Muller."""
    pairs = (count + 1) // 2
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    stream = np.frombuffer(encryptor.update(bytes(16 * pairs)), dtype=np.uint64)
    uniform = ((stream >> np.uint64(11)) + 1.0) * 2.0**-53  # in (0, 1]
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def request_digest(before: str, kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of a request and of ``before``, a hash of all earlier ones that change its reply."""
    digest = hashlib.sha256(json.dumps([before, kind, options], sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _places(program: Program, kind: str, options: Mapping[str, Any], key: str) -> float:
    """Return the number of positions in an image's part of a sum."""
    if kind == "norm-moments":
        given: Any = norms(program)[options["index"]].args[0]
        shape = given.meta["val"].shape
        return positions(given, int(shape[1]))
    name = options["name"] if "name" in options else key.rpartition("/")[2] if "/" in key else key
    (layer,) = [layer for layer in program.layers if layer.name == name]
    shape = layer.output.meta["val"].shape
    return positions(layer.output, int(shape[-1 if layer.convolution is None else 1]))
