"""What entropy-adaptive merging carries from batch to batch, as a state dict holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedmerge.testtime.guard import StreamMonitor
from fedmerge.testtime.merged import MergedModel
from fedmerge.testtime.online import carried
from fedmerge.testtime.steps import Scored
from fedmerge.testtime.weighting import Memory


def remembered(
    memory: Memory, merged: MergedModel, scored: Scored | None, monitor: StreamMonitor | None
) -> dict[str, Tensor]:
    """Return averages over batches, the norms' sums, the last scoring with its merge, the guard's counts.

    scored: None where each batch is scored anew, so that neither it nor its merge is needed.
    """
    found = {f"memory.{name}": value for name, value in memory.retained.items()}
    found |= {f"norms.{name}": value for name, value in merged.stream.state().items()}
    if scored is not None:
        found |= {f"scored.{name}": value for name, value in scored.state().items()}
        found |= {f"merged.{i}": row for i, (_, _, row) in enumerate(merged.sources.matrices)}
    if monitor is not None:
        found["monitor"] = torch.tensor([monitor.alone, monitor.single])
    return found


def take_up(
    state: Mapping[str, Tensor], memory: Memory, merged: MergedModel, monitor: StreamMonitor | None
) -> Scored | None:
    """Put back what :func:`remembered` gave, and return the last scoring."""
    memory.retained = _below(state, "memory", merged)
    merged.stream.take(_below(state, "norms", merged))
    merged.passes.forget()
    if monitor is not None and "monitor" in state:
        monitor.alone, monitor.single = state["monitor"].tolist()
    rows = _below(state, "merged", merged)
    for i, (_, _, row) in enumerate(merged.sources.matrices):
        if str(i) in rows:
            row.copy_(rows[str(i)])
    scored = _below(state, "scored", merged)
    return Scored.of(scored) if scored else None


def move(fn: Callable[[Tensor], Tensor], memory: Memory, scored: Scored | None) -> Scored | None:
    """Move the averages, and return the last scoring moved, as ``fn`` of ``Module._apply`` does."""
    memory.retained = {name: carried(fn, value) for name, value in memory.retained.items()}
    if scored is None:
        return None
    return Scored.of({name: carried(fn, value) for name, value in scored.state().items()})


def _below(state: Mapping[str, Tensor], part: str, merged: MergedModel) -> dict[str, Tensor]:
    """Return the entries ``part.NAME`` of a state, by NAME, on the models' device."""
    start, device = f"{part}.", merged.sources.rows.device
    return {key.removeprefix(start): v.to(device) for key, v in state.items() if key.startswith(start)}
