"""Files from outside: their sizes are checked before anything is read or allocated."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, short

LARGEST_JSON = 256 * 2**20
LARGEST_HEADER = 32 * 2**20
"""Bytes of a safetensors header: some 200,000 tensors."""
MOST_CELLS = 200_000_000
"""Rows x columns of a parquet file that is read whole."""
LARGEST_CARD = 2**20


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """Read a file. Raises FedMergeError for one of more than ``most`` bytes, without reading it."""
    content = b""
    if (long := path.stat().st_size > most) is False:
        with path.open("rb") as file:
            content = file.read(most + 1)
    if long or len(content) > most:  # it may have grown, or be no file
        raise FedMergeError(
            f"'{short(path)}' has more than {most:,} bytes, which is more than {what} can have: it is none, "
            "or damaged; restore it from a copy."
        )
    return content


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """Read a JSON file. Raises FedMergeError for one that is no JSON, too long, or nested too deeply."""
    content = read_bounded(path, most, "a JSON file")
    try:
        return json.loads(content)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise FedMergeError(f"'{short(path)}' cannot be read ({reason}): restore it from a copy.")


def check_tensor_file(path: Path) -> None:
    """Raise FedMergeError for a safetensors file whose header is longer than the file or the limit."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
    if len(begin) < 8:
        return  # safetensors says what is wrong with it
    (length,) = struct.unpack("<Q", begin)
    if length > min(size - 8, LARGEST_HEADER):
        why = f"the file has {size:,}" if length > size - 8 else f"{LARGEST_HEADER:,} are the most"
        raise FedMergeError(
            f"'{short(path)}' is not a whole safetensors file (its header is to have {length:,} bytes, and "
            f"{why}): restore it from a copy, or make the model again."
        )


def check_table(path: Path) -> None:
    """Raise FedMergeError for a parquet file of more than ``MOST_CELLS`` cells, by its footer alone.

    Raises pyarrow's errors (``OSError``, ``ValueError``) for a file that is no parquet file.
    """
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    if footer.num_rows * footer.num_columns > MOST_CELLS:
        raise FedMergeError(
            f"'{short(path)}' says that it has {footer.num_rows:,} rows of {footer.num_columns:,} columns, "
            f"more than {MOST_CELLS:,} cells: it is no table of a run; restore it from a copy."
        )


def check_memory(needed: int, where: str) -> None:
    """Raise FedMergeError where this machine has fewer than ``needed`` bytes of memory free."""
    import psutil

    free = int(psutil.virtual_memory().available)
    if needed > free:
        raise FedMergeError(
            f"{where} needs {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free: use a "
            "machine with more, fewer images, or smaller ones."
        )
