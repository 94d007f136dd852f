"""Weights in a safetensors file: written whole or not at all, read without running anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedmerge.errors import FedMergeError, short
from fedmerge.models.state import State
from fedmerge.schema.validation import is_there
from fedmerge.storage.files import write
from fedmerge.storage.outside import check_tensor_file

T = TypeVar("T")


def write_weights(path: Path, state: State) -> str:
    """Write tensors to a safetensors file, whole or not at all; returns its SHA-256. Raises DiskError."""
    held = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    return write(path, lambda part: save_file(held, part, metadata={"format": "pt"}))


def load_weights(path: Path) -> State:
    """The tensors of a safetensors file, on the CPU. Raises FedMergeError if it is missing or damaged."""
    if not is_there(path) or not path.is_file():
        raise FedMergeError(f"there is no file '{short(path)}': check the path.")
    return read_file(path, tensors)


def read_file(path: Path, read: Callable[[safe_open], T]) -> T:
    """What ``read`` finds in a safetensors file. Raises FedMergeError for one that is not whole."""
    try:
        check_tensor_file(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            return read(file)
    except (SafetensorError, OSError) as error:
        raise FedMergeError(
            f"'{path}' is not a whole safetensors file ({error}): restore it from a copy, "
            "or make the model again."
        ) from None


def tensors(file: safe_open) -> State:
    """All of a file's tensors, mapped from it and read when they are touched."""
    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
