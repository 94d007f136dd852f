"""Secure aggregation: the server learns the sum of the hospitals' weights and no hospital's own.

Each pair of hospitals agrees on a key that the server does not know (X25519, RFC 7748), stretches it to as
many random numbers as the model has weights (HKDF-SHA256, then AES-256 in counter mode), and one of the two
adds them while the other takes them off (Bonawitz et al. 2017, the pairwise masks of doi
10.1145/3133956.3133982). Weights are fixed-point numbers and sums are taken modulo 2^64, so the masks cancel
exactly: the result does not depend on the keys.

What a hospital that drops out leaves behind is avoided, not repaired: masks are made only after training, for
those who finished it, and a hospital answers for one list of participants a round. One that vanishes between
the two messages makes the round void.

It protects from a server that looks at what it gets. One that lies about keys could read a hospital's
weights: keys are passed on by the server, and nobody vouches for them. Flower's SecAgg+ is not used: it works
with Flower's old strategies only, and its masks come from seeds of 32 bits (flwr 1.41, ``pseudo_rand_gen``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedmerge.errors import FedMergeError
from fedmerge.models.state import BatchNormPolicy, State, running_pairs

Words = NDArray[np.uint64]
FEWEST = 3  # of two hospitals, each could take its own weights off the sum
BITS = 30  # binary places: a weight is rounded by at most 2^-31
_SUM = 2.0**62  # what a sum of fixed-point numbers must stay below, with its sign


def new_secret() -> bytes:
    """A private key, from the operating system's randomness: it has nothing to do with the run's seed."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(secret: bytes) -> bytes:
    """The public key that belongs to a private one."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def encode(state: State, images: int, everyone: int, batch_norm: BatchNormPolicy) -> Words:
    """``images * round(2^30 x)`` for every number x of a state's float entries, in the order of their names.

    everyone: the images of all participants. With batch norm's ``mixture`` a running variance v goes as
    ``v + mean^2``, whose weighted sum is that of the mixture. Raises FedMergeError for numbers that are not
    finite, or so large that their sum could overflow.
    """
    values = dict(state)
    if batch_norm == "mixture":
        for mean, var in running_pairs(state):
            values[var] = state[var].double() + state[mean].double().square()
    flat = torch.cat([values[key].double().reshape(-1).cpu() for key in _floats(state)]).numpy()
    largest = float(np.abs(flat).max(initial=0.0))
    if not largest * everyone * 2.0**BITS < _SUM:
        raise FedMergeError(
            f"weights up to {largest:g} cannot be summed securely over {everyone} images: they must be "
            f"finite and below {_SUM / everyone / 2.0**BITS:g}."
        )
    return (np.rint(flat * 2.0**BITS).astype(np.int64) * np.int64(images)).view(np.uint64)


def decode(total: Words, start: State, everyone: int, batch_norm: BatchNormPolicy) -> State:
    """The mean weighted by images from the sum of all participants' numbers; the inverse of ``encode``.

    Shapes and dtypes are those of ``start``, and so are the integer entries.
    """
    means = torch.from_numpy(total.view(np.int64) / (everyone * 2.0**BITS))
    keys = _floats(start)
    parts = means.split([start[key].numel() for key in keys])
    found = {key: part.view(start[key].shape) for key, part in zip(keys, parts, strict=True)}
    if batch_norm == "mixture":
        for mean, var in running_pairs(start):
            found[var] = (found[var] - found[mean].square()).clamp(min=0)
    return {key: found[key].to(value.dtype) if key in found else value for key, value in start.items()}


def mask(numbers: Words, name: str, secret: bytes, publics: Mapping[str, bytes], purpose: bytes) -> Words:
    """``numbers`` with the masks of hospital ``name`` towards all others on them, modulo 2^64.

    publics: the participants' public keys. purpose: what the masks are for; it must be another one for every
    sum, and the same for all participants. Raises FedMergeError for fewer than three participants, or where
    this hospital is not among them with its own key.
    """
    if len(set(publics.values())) < FEWEST:
        raise FedMergeError(
            f"a secure sum takes at least {FEWEST} hospitals, each with a key of its own, but there are "
            f"{len(set(publics.values()))}: from a smaller sum, one could read another's weights."
        )
    if publics.get(name) != public_of(secret):
        raise FedMergeError(f"hospital '{name}' is not among those to be summed with the key that it gave.")
    own, masked = X25519PrivateKey.from_private_bytes(secret), numbers.copy()
    for other, public in publics.items():
        if other == name:
            continue
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
        pair = "|".join(sorted((name, other))).encode()
        key = HKDF(SHA256(), 32, salt=None, info=purpose + b"|" + pair).derive(shared)
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        random = np.frombuffer(stream.update(bytes(8 * len(numbers))), dtype="<u8")
        if name < other:
            masked += random
        else:
            masked -= random
    return masked


def _floats(state: State) -> list[str]:
    return sorted(key for key, value in state.items() if value.is_floating_point())
