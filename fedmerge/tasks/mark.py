"""The mark on a network that says what its outputs mean; it stays on copies, and merged models have it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
MARK = "fedmerge_task"
"""The attribute with the task's name; a network without it answers with one class an image."""


def mark(model: M, name: str) -> M:
    """Mark a network, in place, with the name of its task, and return it; multiclass leaves no mark.

    The mark is a plain attribute: models of two tasks differ in it, so no merge takes both.
    """
    if name != "multiclass":
        setattr(model, MARK, name)
    elif hasattr(model, MARK):
        delattr(model, MARK)
    return model


def marked(model: nn.Module) -> str | None:
    """Return the mark of a network, also of one inside ``DataParallel`` or ``torch.compile``."""
    inner: object = model
    while isinstance(inner, nn.Module):
        found = vars(inner).get(MARK)
        if found is not None:
            return str(found)
        inner = inner._modules.get("module", inner._modules.get("_orig_mod"))
    return None
