"""A choice of entropy-adaptive merging by its own name, put into the group where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from fedmerge.testtime import EntropyAdaptive
from fedmerge.testtime.options import Coefficients, Norms, Prediction

GROUPS: dict[str, Any] = {"coefficients": Coefficients, "norms": Norms, "predict": Prediction}
FIELDS = {group: {each.name for each in fields(kind)} for group, kind in GROUPS.items()}


def grouped(**choices: Any) -> dict[str, Any]:
    """The options that a node takes: each choice in the group that has a field of its name."""
    known = set().union(*FIELDS.values())
    options = {name: value for name, value in choices.items() if name not in known}
    for group, own in FIELDS.items():
        if given := {name: value for name, value in choices.items() if name in own}:
            options[group] = GROUPS[group](**given)
    return options


def adaptive(models: Sequence[nn.Module], **choices: Any) -> EntropyAdaptive:
    """The node of ``models`` with these choices, the others at their defaults."""
    return EntropyAdaptive(models, **grouped(**choices))
