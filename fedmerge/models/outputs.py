"""From what a model returns to its logits: classifiers return tensors, dicts, tuples or ModelOutputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fedmerge.errors import FedMergeError

NAMES = ("logits", "out")


def logits_of(output: Any, model: nn.Module | str = "the model") -> Tensor:
    """The logits (N x ...) in a model's output, as they are: neither flattened nor copied.

    A tensor is returned as it is. Of a mapping, or an object with such attributes (a ModelOutput, a named
    tuple), ``logits`` or ``out`` is taken; of another tuple or list the first element. Raises FedMergeError
    for anything else.
    """
    if isinstance(output, Tensor):
        return output
    for name in NAMES:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    who = model if isinstance(model, str) else f"the model {type(model).__name__}"
    holds = f" with {', '.join(map(str, output)) or 'nothing'}" if isinstance(output, Mapping) else ""
    raise FedMergeError(
        f"{who} returns something of type {type(output).__name__}{holds}, in which no logits are found: it "
        "must return them alone, under 'logits' or 'out', or first in a tuple."
    )
