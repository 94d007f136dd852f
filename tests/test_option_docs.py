"""docs/options.md and the schemas for editors, against the types: every option is there, as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.federation.policy.rules import Policy
from fedmerge.schema.validation import validate
from fedmerge.workflows.reference import fields
from fedmerge.workflows.reference.fields import ROOTS, options, sections
from fedmerge.workflows.reference.page import TO_WRITE, rewritten, rows
from fedmerge.workflows.reference.schemas import FILES, schema

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "options.md"
BASE = {
    "name": "mine",
    "cohort": {"name": "two", "source": "digits", "sites": [{"name": "north"}]},
    "model": "small-cnn",
    "training": {"rounds": 1},
    "fusion": ["mean"],
    "evaluation": {"streams": ["iid"]},
}
"""What an example leaves out of an experiment."""
KIND = {"experiment": "experiment", "study": "study", "node.yaml": "node", "policy.yaml": "policy"}
"""The schema of each kind of file, by the word before the path in a heading."""


def examples() -> dict[str, dict[str, Any]]:
    """The example of each section, by heading."""
    parts = re.split(r"^#+ (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    blocks = {
        heading: re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: dict(yaml.safe_load(block)) for heading, (block,) in list(blocks.items())[1:]}


def word_of(heading: str) -> str:
    return heading.partition(":")[0].partition(",")[0]


def whole(heading: str) -> dict[str, Any]:
    """The example of a section in a file that has what is needed besides."""
    return (BASE if word_of(heading) == "experiment" else {}) | examples()[heading]


def test_the_page_is_what_the_types_make_of_it():
    """Where this fails: `make docs-reference` writes the tables again."""
    assert rewritten(PAGE.read_text()) == PAGE.read_text()
    found = rows(PAGE.read_text())
    assert {option: row[:2] for option, row in found.items()} == options()
    assert not [option for option, row in found.items() if not row[2].strip() or row[2] == TO_WRITE]


def held(value: Any) -> Iterator[BaseModel]:
    """A section and all that are in it."""
    if isinstance(value, BaseModel):
        yield value
        value = list(value.__dict__.values())
    for part in value if isinstance(value, list | tuple) else ():
        yield from held(part)


@pytest.mark.parametrize("heading", sections())
def test_the_example_of_a_section_is_accepted_and_has_the_section_in_it(heading):
    read = validate(ROOTS[word_of(heading)], whole(heading), heading)
    assert any(type(each) is sections()[heading] and each.model_fields_set for each in held(read))


def test_an_option_that_no_row_names_gets_one_and_a_row_without_an_option_goes(monkeypatch):
    class Newer(Policy):
        quarantine: int = 3

    monkeypatch.setitem(ROOTS, "policy.yaml", Newer)
    assert fields.options()["policy.yaml", "quarantine"] == ("whole number", "`3`")
    newer = rewritten(PAGE.read_text())
    assert set(rows(newer)) - set(rows(PAGE.read_text())) == {("policy.yaml", "quarantine")}
    assert rows(newer)["policy.yaml", "quarantine"][2] == TO_WRITE
    monkeypatch.undo()
    assert rewritten(newer) == PAGE.read_text()


@pytest.fixture(scope="module")
def checks() -> dict[str, jsonschema.Draft202012Validator]:
    """By kind of file, what checks it against its schema."""
    for name in FILES:
        jsonschema.Draft202012Validator.check_schema(schema(name))
    return {name: jsonschema.Draft202012Validator(schema(name)) for name in FILES}


def test_every_file_that_is_accepted_fits_its_schema(checks):
    for heading in sections():
        checks[KIND[word_of(heading)]].validate(whole(heading))
    for path in (ROOT / "sites").glob("*.yaml"):
        checks["cohort"].validate(yaml.safe_load(path.read_text()))
    for path in (ROOT / "configs").glob("*.yaml"):
        kind = "study" if path.name.startswith("bench-") else "experiment"
        checks[kind].validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"modell": "small-cnn"}, "$"),
        ({"training": {"rounds": -1}}, "$.training.rounds"),
        ({"training": {"rounds": 1, "learning_rate": 0.1}}, "$.training"),
        ({"fusion": [{"method": "entropy", "temprature": 1}]}, None),
        ({"testtime": [{"method": "entropy-adaptive", "temprature": 1}]}, "$.testtime[0]"),
        ({"federation": {"aggregate": {"method": "mean", "trim": 1}}}, "$.federation.aggregate"),
        ({"evaluation": {"streams": ["iid", {"dirichlet": -1}]}}, "$.evaluation.streams[1]"),
    ],
)
def test_an_editor_marks_a_misspelt_option_and_a_number_out_of_range(checks, part, where):
    """An option of a method that is not known is not marked: a plug-in may bring the method."""
    found = [error.json_path for error in checks["experiment"].iter_errors(BASE | part)]
    assert found == ([] if where is None else [where])


def test_the_schema_has_the_words_of_the_page_without_their_links():
    made = schema("experiment")
    assert made["properties"]["plugins"]["description"].startswith("files and modules that add methods")
    assert made["$defs"]["TrainingConfig"]["properties"]["lr"]["default"] == 0.05
    printed = CliRunner().invoke(app, ["schema", "policy"])
    assert json.loads(printed.stdout) == schema("policy")
