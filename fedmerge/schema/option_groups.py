"""Groups of options: a function takes frozen dataclasses, and its callers give their fields by keyword."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")


def flat(function: Callable[..., R]) -> Callable[..., R]:
    """Put the fields of each keyword-only parameter that is a dataclass in its place.

    The signature of what is returned, which a command line or a registry reads, has the fields as
    keyword-only parameters, in the order in which the dataclass has them, with their defaults and their
    annotations, resolved and whole (``Annotated``). Raises ValueError where two parameters would have one
    name, and TypeError for a field whose default is made by a factory.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if parameter.kind is Parameter.KEYWORD_ONLY and isinstance(hint, type) and is_dataclass(hint):
            groups[parameter.name] = hint
            parameters += _fields(hint)
        else:
            parameters.append(parameter.replace(annotation=hint))

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> R:
        for name, group in groups.items():
            own = {each.name: given.pop(each.name) for each in fields(group) if each.name in given}
            given[name] = group(**own)
        return function(*args, **given)

    signature = inspect.Signature(parameters, return_annotation=hints.get("return", Parameter.empty))
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters} | {
        "return": signature.return_annotation
    }
    return call


def _fields(group: type[Any]) -> list[Parameter]:
    """Return the fields of a dataclass as keyword-only parameters."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for each in fields(group):
        if each.default_factory is not MISSING:
            raise TypeError(f"{group.__name__}.{each.name} has no plain default")
        default = Parameter.empty if each.default is MISSING else each.default
        found.append(
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[each.name])
        )
    return found
