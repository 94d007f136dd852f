"""Where the entries of one dtype stand in a row of numbers, and how rows are merged.

Each entry starts on a 64-byte boundary; batch-norm means and variances come last, in one order:

    row = [ parameters and other buffers | running means | running variances ]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import running_pairs
from fedmerge.models.wide import wide_dtype

Columns = tuple[int, int]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ALIGNMENT = 16  # elements: 64 bytes of float32, what vectorised kernels expect of a weight
_BYTES = 64
_PIECE = 1 << 20  # columns that are widened at once


@dataclass(frozen=True)
class Layout:
    """The entries of one ``dtype``: shapes, strides and first columns by key; the width of a row.

    means: the columns of the running means; the variances follow them, as many and in the same order.
    """

    dtype: torch.dtype
    shapes: Mapping[str, torch.Size]
    strides: Mapping[str, tuple[int, ...]]
    starts: Mapping[str, int]
    width: int
    means: Columns

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """The entries that a row holds, as views of it."""
        return {
            key: row[start:].as_strided(self.shapes[key], self.strides[key])
            for key, start in self.starts.items()
        }

    def columns(self) -> Iterator[tuple[str, Columns]]:
        """Each entry's columns, the padding after it included."""
        for key, start in self.starts.items():
            yield key, (start, start + _padded(self.shapes[key], self.dtype))

    def merge(
        self, rows: Tensor, merged: Tensor, runs: Sequence[Columns], alpha: Tensor, mixture: bool
    ) -> None:
        """Write ``sum_i alpha_i rows_i`` into the columns ``runs`` of ``merged``, added in float32 or wider.

        mixture: variances are those of the mixture of the rows' distributions; one that the dtype cannot
        hold becomes its largest number.
        """
        alpha = alpha.to(wide_dtype(rows.dtype))
        for start, stop in runs:
            _weighted(rows[:, start:stop], alpha, merged[start:stop])
        first, end = self.means
        for start, stop in ((max(a, first), min(b, end)) for a, b in runs):
            if mixture and start < stop:
                spread_from, shift = rows[:, start:stop].to(alpha.dtype), end - first
                narrow = merged.dtype != alpha.dtype
                mean = alpha @ spread_from if narrow else merged[start:stop]
                spread = (spread_from - mean).square_()
                variances = merged[start + shift : stop + shift]
                if narrow:
                    own = alpha @ rows[:, start + shift : stop + shift].to(alpha.dtype)
                    variances.copy_((own + alpha @ spread).clamp(max=torch.finfo(merged.dtype).max))
                else:
                    variances += alpha @ spread


def layouts(entries: Mapping[str, Tensor]) -> list[Layout]:
    """One layout for each dtype of the entries, in order of appearance; without entries an empty one.

    Raises FedMergeError for a complex entry, a dtype that is not a plain float, and a batch norm whose mean
    and variance differ in dtype.
    """
    by_dtype: dict[torch.dtype, dict[str, Tensor]] = {}
    for key, value in entries.items():
        if value.dtype not in DTYPES:
            kind = "complex" if value.is_complex() else str(value.dtype)
            raise FedMergeError(
                f"'{key}' is {kind}; only float16, bfloat16, float32 and float64 can be merged: convert "
                "it, or leave this network out."
            )
        by_dtype.setdefault(value.dtype, {})[key] = value
    for mean, variance in running_pairs(entries):
        if entries[mean].dtype != entries[variance].dtype:
            raise FedMergeError(
                f"'{mean}' is {entries[mean].dtype} and '{variance}' {entries[variance].dtype}: convert the "
                "batch norm to one dtype."
            )
    return [_layout(dtype, held) for dtype, held in by_dtype.items()] or [_layout(torch.float32, {})]


def append(runs: list[Columns], columns: Columns) -> None:
    """Add columns to runs of columns, as part of the last run where they follow it."""
    if runs and runs[-1][1] == columns[0]:
        columns = (runs.pop()[0], columns[1])
    runs.append(columns)


def _layout(dtype: torch.dtype, entries: Mapping[str, Tensor]) -> Layout:
    shapes = {key: value.shape for key, value in entries.items()}
    pairs = running_pairs(shapes)
    means, variances = [mean for mean, _ in pairs], [variance for _, variance in pairs]
    others = [key for key in shapes if key not in {*means, *variances}]
    starts: dict[str, int] = {}
    width = 0
    for key in (*others, *means, *variances):
        starts[key] = width
        width += _padded(shapes[key], dtype)
    length = sum(_padded(shapes[key], dtype) for key in means)
    strides = {key: _dense_strides(value) for key, value in entries.items()}
    return Layout(dtype, shapes, strides, starts, width, (width - 2 * length, width - length))


def _weighted(rows: Tensor, alpha: Tensor, out: Tensor) -> None:
    if rows.dtype == alpha.dtype:
        torch.mv(rows.T, alpha, out=out)
        return
    for start in range(0, rows.shape[1], _PIECE):
        part = rows[:, start : start + _PIECE]
        out[start : start + _PIECE] = torch.mv(part.T.to(alpha.dtype), alpha)


def _dense_strides(value: Tensor) -> tuple[int, ...]:
    """The strides of a tensor, or of one in the same order of dimensions where it has gaps or overlaps."""
    return torch.empty_like(value, device="meta").stride()


def _padded(shape: torch.Size, dtype: torch.dtype) -> int:
    step = max(ALIGNMENT, _BYTES // dtype.itemsize)
    return -(-shape.numel() // step) * step
