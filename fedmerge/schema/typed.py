"""Options that a program passes: each must have the type that its dataclass or its function says."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import numpy as np
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError

from fedmerge.errors import FedMergeError, short

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def check_types(options: Any) -> None:
    """Raise FedMergeError for the first field of a dataclass whose value has another type than it says.

    Whole numbers are numbers, and so are numpy's scalars; text is never read as a number, and true and false
    are none. A configuration is checked before (``validation.validate``).
    """
    kind: Any = type(options)
    _check(_of_fields(kind), {each.name: getattr(options, each.name) for each in fields(kind)}, kind.__name__)


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], what: str) -> None:
    """Raise FedMergeError for the first keyword argument that is not of the type that the function says.

    As ``check_types``; names that are no keyword-only parameters of it are left to Python. what: the callee.
    """
    _check(_of_keywords(function), given, what)


def check_when_made(kind: type[Any]) -> None:
    """Make a class check its keyword arguments (``check_arguments``) before it is initialised."""
    initialise: Callable[..., None] = kind.__init__

    @functools.wraps(initialise)
    def checked(self: Any, *given: Any, **options: Any) -> None:
        check_arguments(initialise, options, kind.__name__)
        initialise(self, *given, **options)

    kind.__init__ = checked


def _check(known: Mapping[str, TypeAdapter[Any]], given: Mapping[str, Any], what: str) -> None:
    for name in (name for name in known if name in given):
        value = given[name]
        try:
            known[name].validate_python(value.item() if isinstance(value, np.generic) else value)
        except ValidationError as error:
            if isinstance(value, str) and {each["type"] for each in error.errors()} == {"literal_error"}:
                continue  # a word of the right type: whose option it is says which words there are
            wanted = error.errors()[0]["msg"].removeprefix("Input ")
            kind = "" if isinstance(value, str | numbers.Number | None) else f" ({type(value).__name__})"
            raise FedMergeError(f"{name} of {what} is {short(repr(value))}{kind}: it {wanted}.") from None


@functools.cache
def _of_fields(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _adapter(hints[field.name]) for field in fields(kind)}


@functools.cache
def _of_keywords(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(function, include_extras=True)
    return {
        name: _adapter(hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name in hints
    }


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if is_dataclass(hint):
        return TypeAdapter(InstanceOf[hint])
    return TypeAdapter(hint, config=STRICT)
