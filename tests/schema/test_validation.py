from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmerge.errors import FedMergeError
from fedmerge.schema.validation import load_yaml, validate
from tests.facts import refused


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mean(Strict):
    kind: Literal["mean"]
    weights: list[float] = []


class Soup(Strict):
    kind: Literal["soup"]
    order: Literal["forward", "random"] = "forward"
    alpha: float = Field(default=0.5, gt=0, le=1)


class Options(Strict):
    depth: int = 2

    @model_validator(mode="after")
    def _even(self) -> Options:
        if self.depth % 2:
            raise ValueError("depth must be even; take 2")
        return self


class Config(Strict):
    seeds: int | list[int] = 0
    methods: list[Annotated[Mean | Soup, Field(discriminator="kind")]] = []
    plain: list[str | Soup] = []
    limit: int | Literal["all"] = "all"
    options: Options | None = None
    table: dict[str, Soup] = {}


CASES: list[tuple[Any, str]] = [
    (
        {"seds": 1},
        "unknown field 'seds'. Did you mean 'seeds'? Allowed: limit, methods, options, plain, seeds, table.",
    ),
    (
        {"methods": [{"kind": "mean"}, {"kind": "soop"}]},
        "field 'methods[1]' cannot be 'soop'. Did you mean 'soup'? Allowed: mean, soup.",
    ),
    ({"methods": [{"alpha": 1}]}, "field 'methods[0]' lacks 'kind', which says what it is: add it."),
    (
        {"methods": [{"kind": "soup", "alfa": 1}]},
        "unknown field 'methods[0].alfa'. Did you mean 'alpha'? Allowed: alpha, kind, order.",
    ),
    (
        {"methods": [{"kind": "soup", "alpha": 2}]},
        "field 'methods[0].alpha' should be less than or equal to 1 (given: 2).",
    ),
    (
        {"methods": [{"kind": "soup", "order": "randm"}]},
        "field 'methods[0].order' cannot be 'randm'. Did you mean 'random'? Allowed: forward, random.",
    ),
    (
        {"plain": ["a", {"kind": "soup", "ordr": "random"}]},
        "unknown field 'plain[1].ordr'. Did you mean 'order'? Allowed: alpha, kind, order.",
    ),
    ({"plain": [{"alpha": 0.5}]}, "field 'plain[0].kind' is missing: add it."),
    (
        {"limit": "al"},
        "field 'limit' should be a valid integer, unable to parse string as an integer (given: 'al'). "
        "Or: field 'limit' cannot be 'al'. Did you mean 'all'? Allowed: all.",
    ),
    ({"options": {"depth": 3}}, "field 'options': depth must be even; take 2."),
    ({"options": {"dept": 3}}, "unknown field 'options.dept'. Did you mean 'depth'? Allowed: depth."),
    ({"options": 3}, "field 'options' should hold fields such as 'name: value' (given: 3)."),
    (
        {"table": {"one": {"kind": "soup", "alpha": 0}}},
        "field 'table.one.alpha' should be greater than 0 (given: 0).",
    ),
    (
        {"seeds": [1, "x"]},
        "field 'seeds[1]' should be a valid integer, unable to parse string as an integer (given: 'x').",
    ),
    ([1], "the whole should hold fields such as 'name: value' (given: [1])."),
]


@pytest.mark.parametrize(("data", "sentence"), CASES)
def test_a_fault_is_a_sentence(data: Any, sentence: str) -> None:
    with pytest.raises(FedMergeError) as caught:
        validate(Config, data, "run.yaml")
    text = str(caught.value)
    assert text.startswith("run.yaml: ")
    assert text.endswith(sentence)
    assert "function-" not in text
    assert "tagged-union" not in text


def test_valid_data_become_the_model() -> None:
    config = validate(Config, {"seeds": [1, 2], "methods": [{"kind": "soup"}]}, "run.yaml")
    assert config.seeds == [1, 2]
    assert config.methods == [Soup(kind="soup")]


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nlist: [1, é]\n", encoding="utf-8")
    assert load_yaml(path) == {"name": "a", "list": [1, "é"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", ("a.yaml", 3, "YAML")),
        (b"a: 1\n\tb: 2\n", (2, "YAML")),
        (
            b"a: !!python/object/apply:os.getcwd []\n",
            (1, "YAML", "tag:yaml.org,2002:python/object/apply:os.getcwd"),
        ),
        (b"- 1\n- 2\n", ("list", "name: value")),
        (b"", ("nothing", "name: value")),
        (b"a: \xff\xfe\n", ("text", "UTF-8")),
    ],
)
def test_broken_yaml_is_a_sentence(tmp_path: Path, content: bytes, words: tuple[object, ...]) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with refused(*words):
        load_yaml(path)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path: Path) -> None:
    with refused("file"):
        load_yaml(tmp_path / "none.yaml")
    with refused("read", "because"):
        load_yaml(tmp_path)
