"""Tensors as Flower arrays that share the tensors' memory; bytes are made only to be sent.

Flower's own ``Array`` holds a ``np.save`` blob, copied when it is made, when it is pickled and when it is
read. A ``LentArray`` is an Array whose numbers stay where they are: inside one process nothing is copied,
pickle protocol 5 hands the buffer over out of band (which Ray's object store needs to avoid a copy), and
Flower's own runtimes read ``data`` as usual.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedmerge.models.state import State

_STYPE = "numpy.ndarray"


class LentArray(Array):
    """A Flower Array over the memory of a C-contiguous ndarray. Nobody may write to the ndarray meanwhile."""

    def __init__(self, array: np.ndarray) -> None:
        held = array if array.flags.c_contiguous else array.copy()
        self.dtype, self.shape, self.stype = str(held.dtype), tuple(held.shape), _STYPE
        self.__dict__["_lent"] = held

    def __getattr__(self, name: str) -> Any:
        """Make ``data``, the blob of ``np.save``, at each access; it is not kept."""
        if name == "data" and "_lent" in self.__dict__:
            return _header(self._lent) + self._lent.tobytes()
        raise AttributeError(name)

    def __reduce__(self) -> tuple[type[LentArray], tuple[np.ndarray]]:
        return LentArray, (self.numpy(),)

    def deflate(self) -> bytes:
        """Serialise as Flower's own ``Array``, whose name is in the bytes: a SuperLink accepts no other."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    @property
    def changed(self) -> bool:
        """Whether ``data`` was replaced by other bytes; Flower's serde may do so."""
        return "data" in self.__dict__

    def numpy(self) -> np.ndarray:
        """Return the numbers themselves, not a copy."""
        return super().numpy() if self.changed else self.__dict__["_lent"]

    @property
    def nbytes(self) -> int:
        """The length of ``data`` in bytes, without making ``data``."""
        return len(_header(self._lent)) + int(self._lent.nbytes)


def lend(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a state dict as an ArrayRecord that shares its memory (other devices are copied to the CPU)."""
    record = ArrayRecord()
    for key, value in state.items():
        record[key] = LentArray(value.detach().cpu().numpy())
    return record


def borrow(record: ArrayRecord, *, keep: bool = True) -> State:
    """Return the tensors of an ArrayRecord, with their dtypes; those of lent arrays are read-only views.

    keep: False takes each array out of the record as it is read, so that a blob and its copy are not both
    held.
    """
    state: State = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for key in list(record):
            state[key] = torch.from_numpy((record[key] if keep else record.pop(key)).numpy())
    return state


def count_bytes(record: ArrayRecord) -> int:
    """Return ``record.count_bytes()`` without serialising lent arrays."""
    return sum(
        len(key) + (array.nbytes if isinstance(array, LentArray) else len(array.data))
        for key, array in record.items()
    )


def content_bytes(content: RecordDict) -> int:
    """Return the bytes of all that a message holds: names, tensors, numbers and texts, also empty ones.

    Flower's ``count_bytes`` raises an error for an empty text or list, which a hospital could send.
    """
    records: list[Any] = [*content.metric_records.values(), *content.config_records.values()]
    told = sum(_size(name) + _size(value) for record in records for name, value in record.items())
    return sum(map(count_bytes, content.array_records.values())) + told


def _size(value: Any) -> int:
    """Return the bytes of a number (8; a bool: 1), of a text, or of a list of them."""
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, bytes):
        return len(value)
    return 1 if isinstance(value, bool) else 8


def _header(array: np.ndarray) -> bytes:
    """Return the header that ``np.save`` writes before the numbers."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return buffer.getvalue()
