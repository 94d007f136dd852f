"""The sections of every file that people write, and their options in words, from the types alone."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedmerge.experiment.configuration.config import Experiment
from fedmerge.federation.deployment.node_folder import NodeSettings
from fedmerge.federation.policy.rules import Policy
from fedmerge.workflows.bench.config import BenchConfig

Option = tuple[str, str]
"""A section's heading, and the name of an option in it as YAML has it."""

ROOTS: dict[str, type[BaseModel]] = {
    "experiment": Experiment, "study": BenchConfig, "node.yaml": NodeSettings, "policy.yaml": Policy,
}  # fmt: skip
"""The types of the files that people write, by the word before the path in a heading."""
SIMPLE = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "not empty"}
FILLED = {
    ("experiment: fusion", "label"): "the method's name",
    ("experiment: training", "fine_tune"): "as the rounds",
    ("experiment: cohort", "name"): "the file's",
}
"""Defaults that a validator fills in."""


def sections() -> dict[str, type[BaseModel]]:
    """Return every section by its heading: a file's word and the path in it, and the kind of several.

    One that has another's fields alone (``fine_tune``, which has those of ``training``) is that one's.
    """
    found: dict[str, type[BaseModel]] = {}

    def walk(heading: str, model: type[BaseModel]) -> None:
        if any(issubclass(known, model) for known in found.values()):
            return
        kind = typing.get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
        found[f"{heading}, kind {kind[0]}" if len(kind) == 1 else heading] = model
        for name, field in model.model_fields.items():
            for inner in models_in(field.annotation):
                if inner is not Experiment:
                    walk(f"{heading}: {name}" if heading in ROOTS else f"{heading}.{name}", inner)

    for word, model in ROOTS.items():
        walk(word, model)
    return found


def options() -> dict[Option, tuple[str, str]]:
    """Return every option in words: what it may be, and its default."""
    return {
        (heading, option := field.alias or name): (
            may_be(field.annotation, field.metadata),
            FILLED.get((heading, option)) or default_of(field),
        )
        for heading, model in sections().items()
        for name, field in model.model_fields.items()
    }


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that a type is made of, outermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def may_be(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """Say in words what a value may be, with the bounds that the type sets."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    bounds = [f"{BOUNDS[name]} {_number(value)}" for name, value in _bounds(limits) if name != "min_length"]
    if origin is Annotated:
        return may_be(inner[0], [*inner[1:], *limits])
    if origin in (typing.Union, types.UnionType):
        parts = [may_be(each, limits) for each in inner if each is not type(None)]
        return " or ".join(dict.fromkeys([*parts, *(["none"] if type(None) in inner else [])]))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        filled = any(name == "min_length" for name, _ in _bounds(limits))
        return f"list{', not empty,' if filled else ''} of {may_be(inner[0])}"
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    word = SIMPLE.get(kind, "anything" if kind is Any else f"`{getattr(kind, '__name__', kind)}`")
    return " ".join([word, ", ".join(bounds)]).strip() if kind in (int, float) else word


def default_of(field: FieldInfo) -> str:
    """Return a default as YAML writes it; sections have those of their fields."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return f"`{text.strip().removesuffix('...').strip()}`"


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _bounds(limits: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return the bounds among a type's marks, those of a ``Field`` too."""
    marks = [mark for each in limits for mark in (each.metadata if isinstance(each, FieldInfo) else [each])]
    return [
        (name, value) for mark in marks for name in BOUNDS if (value := getattr(mark, name, None)) is not None
    ]
