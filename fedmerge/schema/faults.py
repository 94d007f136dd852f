"""The faults of data that should fit a pydantic model: by field, in sentences."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fedmerge.errors import FedMergeError, nearest, short

Part = str | int
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""Of a field that a model, or a dataclass, does not have."""
QUOTES = "put it in quotes if it is a name"


class Fault:
    """The fault of one field. path: from the top; sentences: for the user, without the file."""

    def __init__(self, path: list[Part], kind: str, sentences: list[str]) -> None:
        self.path = path
        self.kind = kind
        self.sentences = sentences


def faults_of(model: type[BaseModel], data: Any) -> tuple[Any, list[Fault]]:
    """Return ``data`` as an instance of ``model`` (None where it has faults), and its faults, one per field.

    Faults that another hides are found, too: the checks between fields are done again without unknown fields,
    and those of a whole list without its faulty entries. Besides pydantic's faults, a boolean where a number
    is expected is one: ``seeds: [yes]`` would be 1.
    """
    found, faults = _once(model, data)
    known, lists = data, []
    for fault in faults:
        if fault.kind in UNKNOWN:
            known = without(known, fault.path)
    entries = {tuple(fault.path[: _entry(fault.path) + 1]) for fault in faults if _entry(fault.path) >= 0}
    for *path, i in sorted(entries, key=lambda entry: (str(entry[:-1]), entry[-1]), reverse=True):
        known = without(known, [*path, i])
        lists.append(path)
    if known is not data:
        seen = [fault.path for fault in faults]
        faults += [
            fault
            for fault in _once(model, known)[1]
            if fault.path not in seen and (not lists or (fault.path in lists and fault.kind == "value_error"))
        ]
    return found, faults


def _entry(path: list[Part]) -> int:
    """Return where in a path the first list index is; -1 where there is none."""
    return next((i for i, part in enumerate(path) if isinstance(part, int)), -1)


def _once(model: type[BaseModel], data: Any) -> tuple[Any, list[Fault]]:
    found, raw = None, []
    try:
        found = model.model_validate(data)
    except FedMergeError as error:
        return None, [Fault([], "value_error", list(map(str, error.args)))]
    except ValidationError as error:
        raw = _deepest(_written([_Raw(model, data, item) for item in error.errors()]))
    by_field: dict[str, list[_Raw]] = {}
    for each in raw:
        by_field.setdefault(str(each.path), []).append(each)
    faults = {
        field: Fault(same[0].path, same[0].error["type"], _joined(same)) for field, same in by_field.items()
    }
    for path, advice in _booleans(model, data):
        given = _words(_at(data, path))
        said = f"field '{dotted(path)}' should be a number, but YAML reads {given} there: {advice}."
        faults[str(path)] = Fault(path, "bool", [said])
    return (None if faults else found), list(faults.values())


def dotted(path: list[Part]) -> str:
    """Return a path as people write it: ``sites[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else short(part)
    return text


def without(data: Any, path: list[Part]) -> Any:
    """Return ``data`` without the value at ``path``; the mappings and lists on the path are copied."""
    if not path or not isinstance(data, dict | list):
        return data
    there = data if isinstance(data, dict) else range(len(data))  # what is missing is a fault, too
    if path[0] not in there:
        return data
    copied, part = data.copy(), path[0]
    if len(path) == 1:
        del copied[part]  # type: ignore[arg-type]
    else:
        copied[part] = without(data[part], path[1:])  # type: ignore[index]
    return copied


class _Raw:
    """One pydantic error, with its path cleaned of the names of validators and union members."""

    def __init__(self, model: type[BaseModel], data: Any, error: Any) -> None:
        self.error = error
        self.path: list[Part] = []
        self.candidates: list[Any] = [model]
        self.written = True
        at = data
        for i, part in enumerate(error["loc"]):
            inside = (isinstance(at, Mapping) and part in at) or (
                isinstance(at, list | tuple) and isinstance(part, int) and part < len(at)
            )
            if inside or (error["type"] == "missing" and i == len(error["loc"]) - 1):
                self.owners = _models(self.candidates)
                self.groups = [name for each in self.candidates for name in _annotations(each)]
                self.candidates = _step(self.candidates, part)
                self.path.append(part)
                at = at[part] if inside else None
            else:
                fields = [owner.model_fields for owner in _models(self.candidates)]
                self.written &= not any(part in names for names in fields)
                self.candidates = _choose(self.candidates, str(part))

    def sentences(self) -> list[str]:
        """Return the sentences for the user: one, or all of a validator of our own."""
        kind, context, given = self.error["type"], self.error.get("ctx", {}), self.error["input"]
        field = f"field '{dotted(self.path)}'" if self.path else "the whole"
        if kind == "value_error":
            return [f"{field}: {str(each).rstrip('.')}." for each in context["error"].args]
        return [self._sentence(kind, context, given, field)]

    def _sentence(self, kind: str, context: Any, given: Any, field: str) -> str:
        if kind in UNKNOWN:
            fields = [field for owner in self.owners for field in owner.model_fields.items()]
            names = sorted({info.alias or name for name, info in fields} | set(self.groups))
            hint = nearest(str(self.path[-1]), names)
            return f"unknown {field}.{hint} Allowed: {', '.join(names)}."
        if kind == "missing":
            return f"{field} is missing: add it."
        if kind in ("literal_error", "enum", "union_tag_invalid"):
            expected = context.get("expected") or context["expected_tags"]
            names = [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
            given = context.get("tag", given)
            hint = nearest(str(given), names)
            return f"{field} cannot be {short(repr(given))}.{hint} Allowed: {', '.join(names)}."
        if kind == "union_tag_not_found":
            return f"{field} lacks {context['discriminator']}, which says what it is: add it."
        if kind in ("model_type", "model_attributes_type", "dict_type"):
            return f"{field} should hold fields such as 'name: value' (given: {short(repr(given))})."
        if kind == "string_type" and isinstance(given, bool | int | float | None):
            return f"{field} should be text, but YAML reads {_words(given)} there: {QUOTES}."
        if kind == "too_short":
            least = context["min_length"]
            return f"{field} has {context['actual_length']} entries and needs at least {least}: add some."
        if kind in ("tuple_type", "list_type"):
            return f"{field} should be a list, such as [one, another] (given: {short(repr(given))})."
        message = self.error["msg"].removeprefix("Input ")
        return f"{field} {message[0].lower()}{message[1:]} (given: {short(repr(given))})."


def _words(given: bool | int | float | None) -> str:
    if given is None:
        return "nothing (null)"
    if isinstance(given, bool):
        return "true (yes, on)" if given else "false (no, off)"
    return f"the number {given}"


def _joined(same: list[_Raw]) -> list[str]:
    """Return the sentences of one field; where it may be of several kinds, join those of each kind by "Or".

    A check of our own is about the kind that fits, so where there is one the others are left out.
    """
    ours = [raw for raw in same if raw.error["type"] == "value_error"]
    sentences = list(dict.fromkeys(each for raw in ours or same for each in raw.sentences()))
    return sentences if ours or len(same) == 1 else [" Or: ".join(sentences)]


def _written(faults: list[_Raw]) -> list[_Raw]:
    """Drop faults of values that a validator filled in from a field with the same fault."""
    said = [(fault.error["type"], fault.error["loc"][-1:]) for fault in faults]
    first = [each for each, fault in zip(said, faults, strict=True) if fault.written]
    pairs = list(zip(faults, said, strict=True))
    copies = [(fault.path, each) for fault, each in pairs if not fault.written and each in first]
    paths, twins = [path for path, _ in copies], [each for _, each in copies]
    return [fault for fault, each in pairs if fault.path not in paths or (fault.written and each in twins)]


def _deepest(faults: list[_Raw]) -> list[_Raw]:
    """Drop a fault where another lies inside its field: of a union, the member that fits best is kept."""
    return [
        fault
        for fault in faults
        if not any(
            len(other.path) > len(fault.path) and other.path[: len(fault.path)] == fault.path
            for other in faults
        )
    ]


def _booleans(model: type[BaseModel], data: Any) -> Iterator[tuple[list[Part], str]]:
    """Find booleans where a number may be, but no boolean: pydantic would take them for 0 or 1.

    Yields the path, and the advice.
    """
    for path in _paths_of_booleans(data, []):
        candidates: list[Any] = [model]
        for part in path:
            candidates = _step(candidates, part)
        if (int in candidates or float in candidates) and bool not in candidates:
            yield path, QUOTES if str in candidates else "write a number"


def _paths_of_booleans(at: Any, path: list[Part]) -> Iterator[list[Part]]:
    if isinstance(at, bool):
        yield path
    elif isinstance(at, dict | list | tuple):
        for part, value in at.items() if isinstance(at, dict) else enumerate(at):
            yield from _paths_of_booleans(value, [*path, part])


def _at(data: Any, path: list[Part]) -> Any:
    for part in path:
        data = data[part]
    return data


def _flat(annotation: Any) -> Iterator[Any]:
    """Yield the members of unions and ``Annotated``, one after the other."""
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
    """Return the types that are allowed at ``part`` inside one of the candidates."""
    found: list[Any] = []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            for name, info in candidate.model_fields.items():
                if part in (name, info.alias):
                    found += _flat(info.annotation)
        elif isinstance(part, str) and part in (known := _annotations(candidate)):
            found += _flat(known[part])
        elif arguments := typing.get_args(candidate):
            for argument in arguments[-1:] if isinstance(part, str) else arguments:
                found += _flat(argument)
    return found


def _annotations(candidate: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with their types; none of anything else."""
    if not (isinstance(candidate, type) and dataclasses.is_dataclass(candidate)):
        return {}
    hints = typing.get_type_hints(candidate)
    return {each.name: hints[each.name] for each in dataclasses.fields(candidate)}


def _choose(candidates: list[Any], tag: str) -> list[Any]:
    """Keep the union members that pydantic's tag names: a class, or the value of a discriminator."""

    def fits(candidate: type[BaseModel]) -> bool:
        literals = [typing.get_args(info.annotation) for info in candidate.model_fields.values()]
        return candidate.__name__ == tag or any(tag in map(str, values) for values in literals)

    return [candidate for candidate in _models(candidates) if fits(candidate)] or candidates
