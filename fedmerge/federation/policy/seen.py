"""What a log says of a message: the hash of the model in it, and how many bytes it has."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from fedmerge.federation.arrays import borrow, count_bytes
from fedmerge.federation.records import ARRAYS
from fedmerge.models.state import state_hash


def seen(message: Message, way: str) -> dict[str, Any]:
    """``model_WAY``, the hash of the tensors (``state_hash``), where there are any, and ``bytes_WAY``."""
    if message.has_error():
        return {f"bytes_{way}": len(message.error.reason or "")}
    content = message.content
    arrays = content.array_records
    numbers = sum(record.count_bytes() for record in content.metric_records.values())
    texts = sum(record.count_bytes() for record in content.config_records.values())
    found: dict[str, Any] = {}
    if arrays.get(ARRAYS):
        found[f"model_{way}"] = state_hash(borrow(arrays[ARRAYS]))
    return found | {f"bytes_{way}": sum(map(count_bytes, arrays.values())) + numbers + texts}
