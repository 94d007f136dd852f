"""Many models of one architecture as the rows of one matrix, merged by a matrix-vector product.

Row i holds model i's parameters and floating-point buffers end to end, each starting on a 64-byte
boundary, batch-norm means and variances last:

    row = [ parameters and other buffers | running means | running variances ]

Real modules are tied to the rows (their parameters are views), so a source or the merged model is called
like any network and a merge copies nothing. Inside a row the numbers of an entry follow the template's memory
format, so a channels-last network stays one. The merge of a group of columns g is

    merged[g] = sum_i alpha_i rows[i, g]

and, with ``batch_norm="mixture"``, a merged variance is that of the mixture of the sources' distributions,
written in its centred form, which cannot cancel to something negative:

    var = sum_i alpha_i (v_i + (m_i - m)^2) = sum_i alpha_i (v_i + m_i^2) - m^2,   m = sum_i alpha_i m_i
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import group_of
from fedmerge.models.state import check_alike, running_pairs

MergedBatchNorm = Literal["mixture", "average"]
Columns = tuple[int, int]
Change = TypeVar("Change")

ALIGNMENT = 16  # float32 elements: 64 bytes, what vectorised kernels expect of a weight


class FlatModels(nn.Module):
    """M models of one architecture in one M x P float32 matrix, and one merged model.

    sources: the models, or their state dicts; copied, never written to.
    template: a model of the same architecture; copied for its structure and memory format.
    head: name of the classification head, which parts the columns into the groups ``"encoder"`` and
        ``"head"``; may be given later by :meth:`split`.
    batch_norm: ``"mixture"`` of moments or plain ``"average"`` of variances.

    Floating-point entries of any precision become float32; integer buffers are the template's. The merged
    model starts as the mean. Moves with ``.to(device)``; ``state_dict`` holds the matrix, which fits only
    templates of the same memory format. Raises FedMergeError for no source, and where a key, shape or dtype
    differs from the template's.
    """

    rows: Tensor
    merged_row: Tensor

    def __init__(
        self,
        sources: Sequence[nn.Module | Mapping[str, Tensor]],
        template: nn.Module,
        head: str | None = None,
        *,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        super().__init__()
        if len(sources) < 1:
            raise FedMergeError("there is no model to merge; give at least one.")
        if batch_norm not in ("mixture", "average"):
            raise FedMergeError(f"unknown batch-norm policy '{batch_norm}'. Allowed: average, mixture.")
        states = [_tensors(source) for source in sources]
        names = ["template", *(f"models[{index}]" for index in range(len(states)))]
        check_alike(names, [_tensors(template), *states])
        self.batch_norm = batch_norm
        entries = {key: value for key, value in _tensors(template).items() if _is_real(key, value)}
        self._shapes = {key: value.shape for key, value in entries.items()}
        self._strides = {key: _dense_strides(value) for key, value in entries.items()}
        self._starts, width, self._means = _layout(self._shapes)
        device = next(template.parameters(), torch.empty(0)).device
        rows = torch.zeros(len(states), width, device=device)
        for row, state in zip(rows, states, strict=True):
            for key, view in self._views(row).items():
                view.copy_(state[key].detach())
        self.register_buffer("rows", rows)
        self.register_buffer("merged_row", torch.zeros_like(rows[0]), persistent=False)
        # a plain list: the tied modules are views of the buffers, not parameters of their own
        self._tied = [copy.deepcopy(template).eval() for _ in range(len(sources) + 1)]
        self._tie()
        self._merge([(0, width)], torch.full((len(sources),), 1 / len(sources), device=device))
        self.head = head
        self._columns: dict[str, list[Columns]] = {}
        if head is not None:
            self.split(head)

    def __len__(self) -> int:
        """The number of sources, M."""
        return len(self.rows)

    def model(self, index: int) -> nn.Module:
        """Source ``index`` as a module in evaluation mode whose parameters are views of its row."""
        return self._tied[:-1][index]

    def change_merged(self, change: Callable[[nn.Module], Change]) -> Change:
        """Let ``change`` replace modules inside the merged model; names of parameters and buffers stay."""
        changed = change(self.merged_model)
        self._tie()
        return changed

    @property
    def merged_model(self) -> nn.Module:
        """The merged model; every :meth:`merge` changes it in place."""
        return self._tied[-1]

    def source(self, index: int) -> dict[str, Tensor]:
        """The state of source ``index``, as views; fits ``torch.func.functional_call``."""
        return {key: value.detach() for key, value in _tensors(self.model(index)).items()}

    @property
    def merged(self) -> dict[str, Tensor]:
        """The state of the merged model, as views."""
        return {key: value.detach() for key, value in _tensors(self.merged_model).items()}

    def split(self, head: str) -> None:
        """Part the columns into ``"encoder"`` and ``"head"``, the entries inside the module ``head``."""
        self.head = head
        self.part(lambda key: group_of(key, head))

    def part(self, group: Callable[[str], str]) -> None:
        """Part the columns into groups of any names: ``group(key)`` for each entry of the state."""
        self._columns = {}
        for key, columns in self._entries():
            _append(self._columns.setdefault(group(key), []), columns)

    def merge(self, group: str, alpha: Tensor, among: Tensor | None = None) -> None:
        """Write ``sum_i alpha_i source_i`` into the merged ``group``; ``alpha``: M float32 weights.

        among: int64 indices of the sources that take part, one weight each; the others are not even read.
        """
        if not self._columns:
            raise FedMergeError("merging one group needs the name of the head; call split(head) first.")
        self._merge(self._columns[group], alpha, among)

    def put(self, group: str, index: int) -> None:
        """Write source ``index`` into the merged ``group`` as it is."""
        for start, stop in self._columns[group]:
            self.merged_row[start:stop] = self.rows[index, start:stop]

    def move_from(self, anchor: Tensor, group: str, scale: float) -> None:
        """Make the merged ``group`` ``anchor + scale (merged - anchor)``; running statistics stay.

        anchor: a row of weights in the order of ours, as :meth:`row_of` gives it.
        """
        end = self._means[0]
        for start, stop in ((a, min(b, end)) for a, b in self._columns[group]):
            if start < stop:
                self.merged_row[start:stop].lerp_(anchor[start:stop], 1 - scale)

    def row_of(self, state: Mapping[str, Tensor]) -> Tensor:
        """A state of the same architecture as a row. Raises FedMergeError where it differs."""
        check_alike(["models[0]", "the given state"], [_tensors(self.model(0)), dict(state)])
        row = torch.zeros_like(self.merged_row)
        for key, view in self._views(row).items():
            view.copy_(state[key].detach())
        return row

    def _merge(self, runs: Sequence[Columns], alpha: Tensor, among: Tensor | None = None) -> None:
        rows = self.rows if among is None else self.rows[among]
        first, end = self._means
        for start, stop in runs:
            torch.mv(rows[:, start:stop].T, alpha, out=self.merged_row[start:stop])
        if self.batch_norm == "average":
            return
        for start, stop in ((max(a, first), min(b, end)) for a, b in runs):
            if start < stop:
                spread = (rows[:, start:stop] - self.merged_row[start:stop]).square_()
                shift = end - first
                self.merged_row[start + shift : stop + shift] += alpha @ spread

    def _entries(self) -> Iterator[tuple[str, Columns]]:
        for key, start in self._starts.items():
            yield key, (start, start + _padded(self._shapes[key]))

    def _views(self, row: Tensor) -> dict[str, Tensor]:
        return {
            key: row[start:].as_strided(self._shapes[key], self._strides[key])
            for key, start in self._starts.items()
        }

    def _tie(self, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Make the modules' parameters views of the rows again, and ``move`` what is not in a row."""
        for model, row in zip(self._tied, [*self.rows, self.merged_row], strict=True):
            views = self._views(row)
            for key, (module, name) in _slots(model).items():
                value = views[key] if key in views else move(getattr(module, name))
                parameter = name in module._parameters
                setattr(module, name, nn.Parameter(value, requires_grad=False) if parameter else value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlatModels:
        super()._apply(fn, recurse)
        self._tie(fn)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a deep copy gives every view a storage of its own
        self._tie()


def _layout(shapes: Mapping[str, torch.Size]) -> tuple[dict[str, int], int, Columns]:
    """The first column of each entry, the width of a row, and the columns of the running means."""
    pairs = running_pairs(shapes)
    means, variances = [mean for mean, _ in pairs], [variance for _, variance in pairs]
    others = [key for key in shapes if key not in {*means, *variances}]
    starts: dict[str, int] = {}
    width = 0
    for key in (*others, *means, *variances):
        starts[key] = width
        width += _padded(shapes[key])
    length = sum(_padded(shapes[key]) for key in means)
    return starts, width, (width - 2 * length, width - length)


def _dense_strides(value: Tensor) -> tuple[int, ...]:
    """The strides of a tensor, or of one in the same order of dimensions where it has gaps or overlaps."""
    return torch.empty_like(value, device="meta").stride()


def _padded(shape: torch.Size) -> int:
    return -(-shape.numel() // ALIGNMENT) * ALIGNMENT


def _append(runs: list[Columns], columns: Columns) -> None:
    if runs and runs[-1][1] == columns[0]:
        columns = (runs.pop()[0], columns[1])
    runs.append(columns)


def _slots(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each tensor of a model lives; non-persistent buffers too, under their would-be key."""
    return {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def _tensors(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a model by state-dict key, or a state dict as it is."""
    if not isinstance(source, nn.Module):
        return dict(source)
    return {
        key: getattr(module, name)
        for key, (module, name) in _slots(source).items()
        if name not in module._non_persistent_buffers_set
    }


def _is_real(key: str, value: Tensor) -> bool:
    if value.is_complex():
        raise FedMergeError(f"'{key}' is complex; only real-valued models can be merged.")
    return value.is_floating_point()
