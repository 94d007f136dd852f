"""A choice of entropy-adaptive merging by its own name, put into the group where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from fedmerge.testtime import EntropyAdaptive
from fedmerge.testtime.options import Coefficients, Norms, Prediction

GROUPS = {"coefficients": Coefficients(), "norms": Norms(), "predict": Prediction()}


def grouped(**choices: Any) -> dict[str, Any]:
    """The options that a node takes: each choice in the group that has a field of its name."""
    options: dict[str, Any] = {}
    for name, value in choices.items():
        homes = [group for group, known in GROUPS.items() if name in {each.name for each in fields(known)}]
        if homes:
            (group,) = homes
            options[group] = replace(options.get(group, GROUPS[group]), **{name: value})
        else:
            options[name] = value
    return options


def adaptive(models: Sequence[nn.Module], **choices: Any) -> EntropyAdaptive:
    """The node of ``models`` with these choices, the others at their defaults."""
    return EntropyAdaptive(models, **grouped(**choices))
