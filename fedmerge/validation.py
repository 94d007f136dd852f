"""YAML files into typed options; a fault becomes one sentence with the file, the field and the way out."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedmerge.errors import FedMergeError, nearest

M = TypeVar("M", bound=BaseModel)
_files: ContextVar[list[Path] | None] = ContextVar("files", default=None)
Part = str | int


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML file whose top level is a mapping.

    Raises ``FedMergeError`` where the file is missing, is not text, is broken (with the line) or is not a
    mapping. Nothing but plain YAML types is built (``yaml.safe_load``).
    """
    path = Path(path)
    if (noted := _files.get()) is not None:
        noted.append(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FedMergeError(f"there is no file {path}: check the path.") from None
    except UnicodeDecodeError:
        raise FedMergeError(f"{path} is not a text file: a YAML file in UTF-8 is expected.") from None
    except OSError as error:
        raise FedMergeError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise FedMergeError(f"{path}{line}: broken YAML ({problem}): correct that line.") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise FedMergeError(f"{path} should hold fields such as 'name: value', but holds {found}.")
    return data


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """Yield a list that gets the path of every file ``load_yaml`` reads inside the block."""
    noted: list[Path] = []
    token = _files.set(noted)
    try:
        yield noted
    finally:
        _files.reset(token)


def validate(model: type[M], data: Any, where: str) -> M:
    """Return ``data`` as an instance of ``model``; raise the first fault as a sentence.

    ``where`` names the origin in the message (a file). The sentence gives the dotted field, what was given,
    what is allowed, and the nearest valid name. Validators may raise ``ValueError`` with a plain sentence.
    """
    try:
        return model.model_validate(data)
    except FedMergeError as error:
        raise FedMergeError(f"{where}: {error}") from None
    except ValidationError as error:
        faults = _deepest([_Fault(model, data, item) for item in error.errors()])
    first = [fault for fault in faults if fault.path == faults[0].path]
    sentence = " Or: ".join(dict.fromkeys(fault.sentence() for fault in first))
    others = len({tuple(fault.path) for fault in faults}) - 1
    more = f" ({others} more after this one.)" if others else ""
    raise FedMergeError(f"{where}: {sentence}{more}")


class _Fault:
    """One pydantic error, with its path cleaned of the names of validators and union members."""

    def __init__(self, model: type[BaseModel], data: Any, error: Any) -> None:
        self.error = error
        self.path: list[Part] = []
        self.candidates: list[Any] = [model]
        at = data
        for i, part in enumerate(error["loc"]):
            inside = (isinstance(at, Mapping) and part in at) or (
                isinstance(at, list | tuple) and isinstance(part, int) and part < len(at)
            )
            if inside or (error["type"] == "missing" and i == len(error["loc"]) - 1):
                self.owners = _models(self.candidates)
                self.candidates = _step(self.candidates, part)
                self.path.append(part)
                at = at[part] if inside else None
            else:
                self.candidates = _choose(self.candidates, str(part))

    @property
    def field(self) -> str:
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text

    def sentence(self) -> str:
        kind, context, given = self.error["type"], self.error.get("ctx", {}), self.error["input"]
        field = f"field '{self.field}'" if self.path else "the whole"
        if kind == "extra_forbidden":
            fields = [field for owner in self.owners for field in owner.model_fields.items()]
            names = sorted({info.alias or name for name, info in fields})
            hint = nearest(str(self.path[-1]), names)
            return f"unknown {field}.{hint} Allowed: {', '.join(names)}."
        if kind == "missing":
            return f"{field} is missing: add it."
        if kind in ("literal_error", "enum", "union_tag_invalid"):
            expected = context.get("expected") or context["expected_tags"]
            names = [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
            given = context.get("tag", given)
            hint = nearest(str(given), names)
            return f"{field} cannot be {given!r}.{hint} Allowed: {', '.join(names)}."
        if kind == "union_tag_not_found":
            return f"{field} lacks {context['discriminator']}, which says what it is: add it."
        if kind == "value_error":
            return f"{field}: {str(context['error']).rstrip('.')}."
        if kind in ("model_type", "model_attributes_type", "dict_type"):
            return f"{field} should hold fields such as 'name: value' (given: {given!r})."
        message = self.error["msg"].removeprefix("Input ")
        return f"{field} {message[0].lower()}{message[1:]} (given: {given!r})."


def _deepest(faults: list[_Fault]) -> list[_Fault]:
    """Drop a fault where another lies inside the same field: of a union, the member that nearly fits."""
    return [
        fault
        for fault in faults
        if not any(
            len(other.path) > len(fault.path) and other.path[: len(fault.path)] == fault.path
            for other in faults
        )
    ]


def _flat(annotation: Any) -> Iterator[Any]:
    """The members of unions and ``Annotated``, one after the other."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _flat(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _flat(member)
    else:
        yield annotation


def _models(candidates: list[Any]) -> list[type[BaseModel]]:
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def _step(candidates: list[Any], part: Part) -> list[Any]:
    """The types that may stand at ``part`` inside one of the candidates."""
    found: list[Any] = []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            for name, info in candidate.model_fields.items():
                if part in (name, info.alias):
                    found += _flat(info.annotation)
        elif arguments := typing.get_args(candidate):
            for argument in arguments[-1:] if isinstance(part, str) else arguments:
                found += _flat(argument)
    return found


def _choose(candidates: list[Any], tag: str) -> list[Any]:
    """Keep the union members that pydantic's tag names: a class, or the value of a discriminator."""

    def fits(candidate: type[BaseModel]) -> bool:
        literals = [typing.get_args(info.annotation) for info in candidate.model_fields.values()]
        return candidate.__name__ == tag or any(tag in map(str, values) for values in literals)

    return [candidate for candidate in _models(candidates) if fits(candidate)] or candidates


def differences(before: Any, now: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted fields in which two mappings differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{field}.{key}" if field else key)
    elif before != now:
        yield field, before, now
