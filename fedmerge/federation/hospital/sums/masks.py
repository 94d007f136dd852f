"""Sums over images as secure sums carry them: the digest of their request, and the numbers in order.

Masks hide a hospital's numbers among others' only if all get the same request: a server that sent the
others models without weights would learn that hospital's sums. So a sum is labelled by a digest of its
request (the models, the shares, the current fused model), which every hospital computes for itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.sums.noise import request_digest
from fedmerge.federation.messages.jobs import SumsBeginJob
from fedmerge.federation.packing import WALKING, Shapes
from fedmerge.federation.privacy.masked import decode_wide, encode_wide
from fedmerge.federation.privacy.secure_sum import Words
from fedmerge.merging.neurons.statistics import Sums

Entries = dict[str, str]
"""A digest of each entry of the current fused model."""


def start_digest_of(job: SumsBeginJob, joined: Mapping[str, Tensor]) -> str:
    """Return a digest of a session's beginning. joined: the parents, as ``join_models`` gives them."""
    return request_digest("", "begin", job.model_dump(mode="json", exclude={"session"}), joined)


def entries_of(tensors: Mapping[str, Tensor]) -> Entries:
    """Return a digest of each entry of the fused model among the tensors of a request."""
    return {key: request_digest("", key, {}, {key: tensors[key]}) for key in tensors if key[:1] != "."}


def masked_digest(
    start_digest: str, kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor], entries: Entries
) -> str:
    """Return a digest of one request and of everything that its reply depends on but the images.

    start_digest: see ``start_digest_of``. entries: of the fused model after the changes of this request.
    """
    others = {key: value for key, value in tensors.items() if key[:1] == "."}
    before = json.dumps([start_digest, sorted(entries.items()) if kind in WALKING else []])
    return request_digest(hashlib.sha256(before.encode()).hexdigest(), kind, options, others)


def label_of(run: str, digest: str) -> str:
    """Return the label of a sum over images. digest: of its request."""
    return f"{run} sums {digest}"


def check_label(label: str, digest: str, site: str) -> None:
    """Raise FedMergeError if a sum's label belongs to another request than this hospital was asked."""
    if label.rpartition(" ")[2] != digest:
        raise FedMergeError(
            f"hospital '{site}' was asked another request than the label of the sum says: under masks all "
            "hospitals answer the same."
        )


def to_words(packed: Mapping[str, Tensor]) -> Words:
    """Return packed sums as words, in the order of their names; each number is rounded by at most 2^-45.

    Raises FedMergeError for numbers that are not finite or far too large.
    """
    return encode_wide(torch.cat([packed[key].double().reshape(-1) for key in sorted(packed)]).numpy())


def words_in(shapes: Shapes) -> int:
    """Return the number of words of packed sums of these shapes."""
    return 2 * sum(map(_count, shapes.values()))


def from_words(words: Words, shapes: Shapes) -> Sums:
    """Return the packed sums whose ``to_words``, added over all participants, give ``words``."""
    names = sorted(shapes)
    parts = torch.from_numpy(decode_wide(words)).split([_count(shapes[name]) for name in names])
    return {name: part.reshape(shapes[name]).clone() for name, part in zip(names, parts, strict=True)}


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
