"""docs/options.md against the types: every option of an experiment, a study and a node is there, as it is."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedmerge.experiment.bench.config import BenchConfig
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.federation.deployment.node_folder import NodeSettings
from fedmerge.federation.policy.rules import Policy
from fedmerge.schema.validation import validate

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
ROOTS = {"experiment": Experiment, "study": BenchConfig, "node.yaml": NodeSettings, "policy.yaml": Policy}
"""The types of the files that people write, by the word before the path in a heading."""
SIMPLE = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "not empty"}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a type is made of, outermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def sections() -> dict[str, type[BaseModel]]:
    """Every section by its heading: a file's word and the path in it, and the kind where there are several.

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


def may_be(annotation: Any, limits: typing.Sequence[Any] = ()) -> str:
    """What a value may be, in words, with the bounds that the type sets."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    bounds = [f"{BOUNDS[name]} {number(value)}" for name, value in bounds_of(limits) if name != "min_length"]
    if origin is Annotated:
        return may_be(inner[0], [*inner[1:], *limits])
    if origin in (typing.Union, types.UnionType):
        parts = [may_be(each, limits) for each in inner if each is not type(None)]
        return " or ".join(dict.fromkeys([*parts, *(["none"] if type(None) in inner else [])]))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        several = (
            "list, not empty, of "
            if any(name == "min_length" for name, _ in bounds_of(limits))
            else "list of "
        )
        return several + may_be(inner[0])
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    word = SIMPLE.get(kind, "anything" if kind is Any else f"`{getattr(kind, '__name__', kind)}`")
    return " ".join([word, ", ".join(bounds)]).strip() if kind in (int, float) else word


def number(value: float) -> str:
    """A bound in digits; that of 64 bits as a power."""
    return "2^63" if value == 2**63 else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def bounds_of(limits: typing.Sequence[Any]) -> list[tuple[str, Any]]:
    """The bounds among a type's marks, those of a ``Field`` too."""
    marks = [mark for each in limits for mark in (each.metadata if isinstance(each, FieldInfo) else [each])]
    return [
        (name, value) for mark in marks for name in BOUNDS if (value := getattr(mark, name, None)) is not None
    ]


def default_of(field: FieldInfo) -> str:
    """A default as YAML writes it; sections have those of their fields."""
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


FILLED = {
    ("experiment: fusion", "label"): "the method's name",
    ("experiment: training", "fine_tune"): "as the rounds",
    ("experiment: cohort", "name"): "the file's",
}
"""Defaults that a validator fills in."""


def expected() -> dict[tuple[str, str], tuple[str, str]]:
    """By section and option: what it may be, and its default."""
    return {
        (heading, option := field.alias or name): (
            may_be(field.annotation, field.metadata),
            FILLED.get((heading, option)) or default_of(field),
        )
        for heading, model in sections().items()
        for name, field in model.model_fields.items()
    }


def written() -> dict[tuple[str, str], tuple[str, ...]]:
    """The rows of the page by section and option; what is after the default is prose."""
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif found := re.match(r"\| `([^`|]+)` \| (.*?) \| (.*?) \| (.*?) \|$", line):
            rows[heading, found[1]] = found.group(2, 3, 4)
    return rows


BASE = {
    "name": "mine",
    "cohort": {"name": "two", "source": "digits", "sites": [{"name": "north"}]},
    "model": "small-cnn",
    "training": {"rounds": 1},
    "fusion": ["mean"],
    "evaluation": {"streams": ["iid"]},
}
"""What an example leaves out of an experiment."""


def examples() -> dict[str, dict[str, Any]]:
    """The example of each section, by heading."""
    parts = re.split(r"^#+ (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    blocks = {
        heading: re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: read(block) for heading, (block,) in list(blocks.items())[1:]}


def read(text: str) -> dict[str, Any]:
    """A block of YAML as a mapping."""
    return dict(yaml.safe_load(text))


def test_every_option_is_on_the_page_with_what_it_may_be_and_its_default():
    rows = written()
    lacking = {
        f"{PAGE.name}, '{heading}': | `{option}` | {may} | {default} | … |"
        for (heading, option), (may, default) in expected().items()
        if rows.get((heading, option), ())[:2] != (may, default)
    }
    assert not lacking, "these rows are missing or say something else:\n" + "\n".join(sorted(lacking))


def test_the_page_has_no_option_that_is_none():
    assert set(written()) == set(expected())
    assert all(what.strip() for _, _, what in written().values())


def held(value: Any) -> Iterator[BaseModel]:
    """A section and all that are in it."""
    if isinstance(value, BaseModel):
        yield value
        value = list(value.__dict__.values())
    for part in value if isinstance(value, list | tuple) else ():
        yield from held(part)


@pytest.mark.parametrize("heading", sections())
def test_the_example_of_a_section_is_accepted_and_has_the_section_in_it(heading):
    word = heading.partition(":")[0].partition(",")[0]
    whole = (BASE if word == "experiment" else {}) | examples()[heading]
    read = validate(ROOTS[word], whole, heading)
    assert any(type(each) is sections()[heading] and each.model_fields_set for each in held(read))


def test_an_option_that_no_row_names_is_noticed(monkeypatch):
    class Newer(Policy):
        quarantine: int = 3

    monkeypatch.setitem(ROOTS, "policy.yaml", Newer)
    assert set(expected()) - set(written()) == {("policy.yaml", "quarantine")}
    assert expected()["policy.yaml", "quarantine"] == ("whole number", "`3`")
