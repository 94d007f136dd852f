"""The audit log's facts about a message: the hash of its model, and its bytes."""

from __future__ import annotations

import hashlib
from typing import Any

from flwr.app import Array, ArrayRecord, Message

from fedmerge.federation.arrays import LentArray, content_bytes
from fedmerge.federation.messages.reading import ARRAYS

_MAGIC = b"\x93NUMPY\x01\x00"  # of np.save's format 1.0; the length of its header follows in two bytes


def seen(message: Message, way: str) -> dict[str, Any]:
    """Return ``model_WAY``, the hash of the tensors (if any), and ``bytes_WAY``.

    Nothing is decoded, because the message has not been checked yet.
    """
    if message.has_error():
        return {f"bytes_{way}": len(message.error.reason or "")}
    content = message.content
    found: dict[str, Any] = {}
    if content.array_records.get(ARRAYS):
        found[f"model_{way}"] = record_hash(content.array_records[ARRAYS])
    return found | {f"bytes_{way}": content_bytes(content)}


def record_hash(record: ArrayRecord) -> str:
    """Return ``models.state.state_hash`` of a record's tensors, if its dtypes and shapes are true."""
    digest = hashlib.sha256()
    for key in sorted(record):
        array = record[key]
        digest.update(f"{key}|torch.{array.dtype}|{tuple(array.shape)}|".encode(errors="replace"))
        digest.update(_numbers(array))
    return digest.hexdigest()


def _numbers(array: Array) -> memoryview:
    """Return the bytes of the numbers without a copy."""
    if isinstance(array, LentArray) and not array.changed:
        return array.numpy().reshape(-1).view("uint8").data
    data = memoryview(array.data)
    header = len(_MAGIC) + 2 + int.from_bytes(data[8:10], "little") if data[:8] == _MAGIC else 0
    return data[header:]
