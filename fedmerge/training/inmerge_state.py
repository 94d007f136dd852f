"""Read the saved state of an InMerge, and check it against the InMerge that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedmerge.errors import FedMergeError
from fedmerge.training.inmerge_options import InMergeOptions, checked

KEYS = ("options", "seed", "steps", "merges", "generator", "partners")


@dataclass(frozen=True)
class Loaded:
    """A saved state: the seed, steps seen, filters merged by layer, both generators."""

    seed: int
    steps: int
    merges: dict[str, int]
    generator: torch.Generator
    partners: torch.Generator


def restore(state: Mapping[str, Any], options: InMergeOptions, layers: tuple[str, ...]) -> Loaded:
    """Read ``InMerge.state_dict()``. Raises FedMergeError unless it is of these options and layers."""
    if not isinstance(state, Mapping) or set(state) != set(KEYS):
        raise FedMergeError(f"this is no state of InMerge: it should have {', '.join(KEYS)}.")
    saved = checked(**state["options"])
    for key, value in saved:
        if value != getattr(options, key):
            raise FedMergeError(
                f"the state of InMerge was saved with {key}={value!r}, and this one has "
                f"{getattr(options, key)!r}: build it with the same options to go on with the same bits."
            )
    if tuple(state["merges"]) != layers:
        raise FedMergeError(
            f"the state of InMerge is of the layers {', '.join(state['merges'])}, and this one merges "
            f"{', '.join(layers)}: build it on the same network."
        )
    generators = [_generator(state, key) for key in ("generator", "partners")]
    merges = {name: int(count) for name, count in state["merges"].items()}
    return Loaded(int(state["seed"]), int(state["steps"]), merges, *generators)


def _generator(state: Mapping[str, Any], key: str) -> torch.Generator:
    made = torch.Generator()
    try:
        made.set_state(state[key].cpu())
    except (RuntimeError, TypeError, AttributeError):
        raise FedMergeError(
            f"the state of InMerge is damaged: '{key}' is no state of a torch.Generator on the CPU."
        ) from None
    return made
