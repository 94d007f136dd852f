"""What an experiment would take, as text for a terminal and as JSON holds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedmerge.cli.progress import clock

if TYPE_CHECKING:
    from fedmerge.workflows.estimate import Estimate


def estimate_lines(found: Estimate) -> list[str]:
    """Return an estimate in lines: its parts, then time, memory, disk, and what was measured."""
    seeds = "seed" if len(found.seeds) == 1 else "seeds"
    numbers = ", ".join(map(str, found.seeds))
    said = [f"{found.name} on {found.device}, {seeds} {numbers}; nothing is written"]
    for part in found.parts:
        took = "not known before" if part.seconds is None else f"about {clock(part.seconds)}"
        said.append(f"  {took:>16}  {part.what}")
    said.append(f"time:    about {clock(found.seconds)}, besides fusion, start and report")
    said.append(f"memory:  about {found.memory / 2**20:,.0f} MiB; disk: about {found.disk / 2**20:,.1f} MiB")
    for what, seconds in found.measured.items():
        said.append(f"measured: {1000 * seconds:.3g} ms, {what.removeprefix('seconds ')}")
    return said


def estimate_record(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON holds it."""
    return asdict(found) | {"seconds": found.seconds}
