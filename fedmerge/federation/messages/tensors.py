"""The arrays of a message: names, dtypes and shapes, checked before a byte of them is decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedmerge.errors import FedMergeError, short
from fedmerge.federation.arrays import LentArray
from fedmerge.federation.messages.text import clean
from fedmerge.models.state import State

STYPE = "numpy.ndarray"
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096


class Refused(FedMergeError):
    """A message does not fit the schema; the sentence continues the name of its sender."""


@dataclass(frozen=True)
class Form:
    """The dtype and shape of one array. dtype: its name in numpy."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


@dataclass(frozen=True)
class Tensors:
    """The schema of a message's arrays. optional: names that may be missing. needed: at least one array."""

    forms: Mapping[str, Form]
    optional: frozenset[str] = frozenset()
    needed: bool = True

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> Tensors:
        """Return the schema of a state dict."""
        return cls({key: Form(_numpy_name(value.dtype), tuple(value.shape)) for key, value in state.items()})

    @classmethod
    def of(cls, dtype: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        """Return a schema of arrays of one dtype."""
        return cls({key: Form(dtype, tuple(shape)) for key, shape in shapes.items()})

    def read(self, record: ArrayRecord | None, *, keep: bool = True) -> State | None:
        """Read the tensors of a record; None if none came. They may be lent: never write to them.

        keep: False takes each array out of the record as it is read. Raises Refused at the first array that
        is not as declared; all names are checked before any array is read.
        """
        if record is None or not len(record):
            if self.needed and self.forms:
                raise Refused("it came without weights")
            return None
        self._check_names(record)
        state: State = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            for key in [name for name in self.forms if name in record]:
                array = record[key] if keep else record.pop(key)
                state[key] = torch.from_numpy(_numbers(key, array, self.forms[key]))
        return state

    def _check_names(self, record: ArrayRecord) -> None:
        strange = next((key for key in record if key not in self.forms), None)
        if strange is not None:
            raise Refused(f"it has an unknown tensor '{named(strange)}'")
        for key in self.forms:
            if key not in record and key not in self.optional:
                raise Refused(f"it lacks the tensor '{key}'")


NO_TENSORS = Tensors({}, needed=False)
"""The schema of a message without arrays."""


def named(name: Any) -> str:
    """Return a name or value from outside in a form fit for a sentence."""
    try:
        return clean(short(name))
    except ValueError:  # a number of more digits than Python writes
        return f"a {type(name).__name__}"


def _numbers(key: str, array: Array, form: Form) -> np.ndarray:
    """Return the numbers of one array as a view of its bytes. Raises Refused."""
    if array.stype != STYPE:
        raise Refused(f"tensor '{key}' is written as '{named(array.stype)}', not as '{STYPE}'")
    if (array.dtype, tuple(array.shape)) != (form.dtype, form.shape):
        raise Refused(f"tensor '{key}' is {named(array.dtype)} of shape {_shape(array.shape)}, not {form}")
    if isinstance(array, LentArray) and not array.changed:
        lent = array.numpy()
        if (str(lent.dtype), lent.shape) != (form.dtype, form.shape):
            raise Refused(f"tensor '{key}' is {lent.dtype} of shape {_shape(lent.shape)}, not {form}")
        return lent
    return _decoded(key, array.data, form)


def _decoded(key: str, data: bytes, form: Form) -> np.ndarray:
    """Return the array in a blob of ``np.save`` without a copy, after checking its header. Raises Refused."""
    if len(data) > form.nbytes + _LONGEST_HEADER or data[:6] != _MAGIC:
        raise Refused(f"tensor '{key}' has {len(data):,} bytes that are no {form}")
    stream = io.BytesIO(data[: _LONGEST_HEADER + 16])
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # numpy parses a Python literal, which may raise anything
        raise Refused(
            f"tensor '{key}' begins with a header that cannot be read ({type(error).__name__})"
        ) from None
    begin = stream.tell()
    if dtype.hasobject or str(dtype) != form.dtype or tuple(shape) != form.shape:
        raise Refused(f"tensor '{key}' says that it is {form}, but holds {named(dtype)} of {_shape(shape)}")
    if len(data) - begin != form.nbytes:
        raise Refused(f"tensor '{key}' has {len(data) - begin:,} bytes, but {form} takes {form.nbytes:,}")
    return np.ndarray(form.shape, dtype, data, begin, order="F" if fortran else "C")


def _shape(shape: Iterable[Any]) -> str:
    return named(tuple(shape))


@lru_cache(maxsize=32)
def _numpy_name(dtype: torch.dtype) -> str:
    return str(torch.empty(0, dtype=dtype).numpy().dtype)
