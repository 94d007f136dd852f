"""Many models of one architecture as the rows of matrices, merged by a matrix-vector product.

Row i holds model i's parameters and floating-point buffers end to end (``layout``), one matrix for each dtype
that they have; most networks have one. Real modules are tied to the rows (their parameters are views), so a
source or the merged model is called like any network and a merge copies nothing. Inside a row the numbers of
an entry follow the template's memory format, so a channels-last network stays one. The merge of a group of
columns g is

    merged[g] = sum_i alpha_i rows[i, g]

and, with ``batch_norm="mixture"``, a merged variance is that of the mixture of the sources' distributions,
written in its centred form, which cannot cancel to something negative:

    var = sum_i alpha_i (v_i + (m_i - m)^2) = sum_i alpha_i (v_i + m_i^2) - m^2,   m = sum_i alpha_i m_i

Sums of float16 and bfloat16 are made in float32 and rounded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import unwrapped
from fedmerge.models.heads import group_of
from fedmerge.models.layout import ALIGNMENT as ALIGNMENT
from fedmerge.models.layout import Columns, Layout, append, layouts
from fedmerge.models.plain import plain, projected, reparametrised
from fedmerge.models.slots import hollow, slots, tensors
from fedmerge.models.state import check_alike, state_hash, without_wrappers

MergedBatchNorm = Literal["mixture", "average"]
Change = TypeVar("Change")


class FlatModels(nn.Module):
    """M models of one architecture in one M x P matrix (one for each dtype), and one merged model.

    sources: the models, or their state dicts; copied, never written to.
    template: a model of the same architecture; copied for its memory format, for the merged model's structure
        and for that of sources that are state dicts.
    head: name of the classification head, which parts the columns into the groups ``"encoder"`` and
        ``"head"``; may be given later by :meth:`split`.
    batch_norm: ``"mixture"`` of moments or plain ``"average"`` of variances.

    Every source keeps its own dtype, integer and boolean buffers, non-persistent buffers and attributes; the
    merged model has the template's. The merged model starts as the mean. Moves with ``.to(device)``;
    ``state_dict`` holds the matrix, which fits only templates of the same memory format. Raises FedMergeError
    for no source, and where a key, shape or dtype differs from the template's.
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
        # a plain list: the tied modules are views of the buffers, not parameters of their own
        names = [f"models[{index}]" for index in range(len(sources))]
        names.append(names[0] if template is sources[0] else "template")
        self._tied = [
            _own(source, template, name) for source, name in zip((*sources, template), names, strict=True)
        ]
        *states, own = map(tensors, self._tied)
        check_alike([names[-1], *names[:-1]], [own, *states])
        self.batch_norm = batch_norm
        self.layouts = layouts({key: value for key, value in own.items() if _is_real(value)})
        device = next(template.parameters(), torch.empty(0)).device
        for number, layout in enumerate(self.layouts):
            rows = torch.zeros(len(states), layout.width, device=device, dtype=layout.dtype)
            for row, state in zip(rows, states, strict=True):
                _fill(layout, row, state)
            self.register_buffer(_name("rows", number), rows)
            self.register_buffer(_name("merged_row", number), torch.zeros_like(rows[0]), persistent=False)
        # without its module: a projection needs the weight's key and what computes it, no more
        self._projected = [replace(item, module=nn.Module()) for item in reparametrised(unwrapped(template))]
        self._tie()
        whole = [[(0, layout.width)] for layout in self.layouts]
        self._merge(whole, torch.full((len(sources),), 1 / len(sources), device=device))
        self._project(whole)
        self.head = head
        self._columns: dict[str, list[list[Columns]]] = {}
        if head is not None:
            self.split(head)

    def __len__(self) -> int:
        """The number of sources, M."""
        return len(self.rows)

    @property
    def matrices(self) -> list[tuple[Layout, Tensor, Tensor]]:
        """For each dtype: the layout, the rows of the sources, and the merged row."""
        return [
            (layout, getattr(self, _name("rows", number)), getattr(self, _name("merged_row", number)))
            for number, layout in enumerate(self.layouts)
        ]

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
        return {key: value.detach() for key, value in tensors(self.model(index)).items()}

    @property
    def merged(self) -> dict[str, Tensor]:
        """The state of the merged model, as views."""
        return {key: value.detach() for key, value in tensors(self.merged_model).items()}

    def fingerprint(self) -> str:
        """A hash of all sources, in hexadecimal, in their order."""
        parts = [state_hash(self.source(index)) for index in range(len(self))]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def split(self, head: str) -> None:
        """Part the columns into ``"encoder"`` and ``"head"``, the entries inside the module ``head``."""
        self.head = head
        self.part(lambda key: group_of(key, head))

    def part(self, group: Callable[[str], str]) -> None:
        """Part the columns into groups of any names: ``group(key)`` for each entry of the state.

        Raises FedMergeError where one module runs in two groups under two names: it cannot have two merges.
        """
        self._check_shared(group)
        self._columns = {}
        for number, layout in enumerate(self.layouts):
            for key, columns in layout.columns():
                parts = self._columns.setdefault(group(key), [[] for _ in self.layouts])
                append(parts[number], columns)

    def merge(self, group: str, alpha: Tensor, among: Tensor | None = None) -> None:
        """Write ``sum_i alpha_i source_i`` into the merged ``group``; ``alpha``: M weights, float32 or wider.

        among: int64 indices of the sources that take part, one weight each; the others are not even read.
        """
        if not self._columns:
            raise FedMergeError("merging one group needs the name of the head; call split(head) first.")
        self._merge(self._columns[group], alpha, among)
        self._project(self._columns[group])

    def put(self, group: str, index: int) -> None:
        """Write source ``index`` into the merged ``group`` as it is."""
        for (_, rows, merged), runs in zip(self.matrices, self._columns[group], strict=True):
            for start, stop in runs:
                merged[start:stop] = rows[index, start:stop]

    def move_from(self, anchor: Sequence[Tensor], group: str, scale: float) -> None:
        """Make the merged ``group`` ``anchor + scale (merged - anchor)``; running statistics stay.

        anchor: rows of weights in the order of ours, as :meth:`row_of` gives them.
        """
        parts = zip(self.matrices, anchor, self._columns[group], strict=True)
        for (layout, _, merged), towards, runs in parts:
            end = layout.means[0]
            for start, stop in ((a, min(b, end)) for a, b in runs):
                if start < stop:
                    merged[start:stop].lerp_(towards[start:stop], 1 - scale)
        self._project(self._columns[group])

    def row_of(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Return a state of the same architecture as a row of each dtype; FedMergeError where it differs."""
        check_alike(["models[0]", "the given state"], [tensors(self.model(0)), dict(state)])
        found = [torch.zeros_like(merged) for _, _, merged in self.matrices]
        for layout, row in zip(self.layouts, found, strict=True):
            _fill(layout, row, state)
        return found

    def _merge(
        self, columns: Sequence[Sequence[Columns]], alpha: Tensor, among: Tensor | None = None
    ) -> None:
        for (layout, rows, merged), runs in zip(self.matrices, columns, strict=True):
            taken = rows if among is None else rows[among]
            layout.merge(taken, merged, runs, alpha, self.batch_norm == "mixture")

    def _project(self, columns: Sequence[Sequence[Columns]]) -> None:
        """Project merged weights onto what their reparametrisation allows, such as spectral norm 1."""
        for item in self._projected:
            for (layout, _, merged), runs in zip(self.matrices, columns, strict=True):
                start = layout.starts.get(item.key, -1)
                if any(first <= start < end for first, end in runs):
                    value = layout.views(merged)[item.key]
                    value.copy_(projected(item, value))

    def _check_shared(self, group: Callable[[str], str]) -> None:
        met: dict[tuple[int, str], str] = {}
        for key, (module, name) in slots(self.merged_model).items():
            other = met.setdefault((id(module), name), key)
            if group(other) != group(key):
                raise FedMergeError(
                    f"'{other}' and '{key}' are one module, but it runs in two parts of the network that are "
                    "merged with coefficients of their own: give one coefficient to the whole network, or "
                    "leave this network out."
                )

    def _tie(self, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Make the modules' parameters views of the rows again, and ``move`` what is not in a row."""
        for number, model in enumerate(self._tied):
            views: dict[str, Tensor] = {}
            for layout, rows, merged in self.matrices:
                views |= layout.views(rows[number] if number < len(self) else merged)
            for key, (module, name) in slots(model).items():
                value = views[key] if key in views else move(getattr(module, name))
                parameter = name in module._parameters
                setattr(module, name, nn.Parameter(value, requires_grad=False) if parameter else value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlatModels:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._tie(fn)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the views: each would be pickled with all rows, which are its storage."""
        tied = {key for layout in self.layouts for key in layout.shapes}
        return self.__dict__ | {"_tied": [hollow(model, tied, "", {}) for model in self._tied]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._tie()


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _name(what: str, number: int) -> str:
    """Return the name of the buffer of one dtype's matrix; the first has no number."""
    return what if number == 0 else f"{what}{number}"


@torch.no_grad()
def _fill(layout: Layout, row: Tensor, state: Mapping[str, Tensor]) -> None:
    for key, view in layout.views(row).items():
        view.copy_(state[key].detach())


@torch.no_grad()
def _own(source: nn.Module | Mapping[str, Tensor], template: nn.Module, name: str) -> nn.Module:
    """Copy a source in evaluation mode; for a state dict, copy the template and fill it with the state."""
    if isinstance(source, nn.Module):
        return plain(unwrapped(source))
    state, model = without_wrappers(source), plain(unwrapped(template))
    held = tensors(model)
    check_alike(["template", name], [held, state])
    for key, value in held.items():
        value.copy_(state[key])
    return model
