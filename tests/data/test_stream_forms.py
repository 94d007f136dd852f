"""How streams are written and named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fedmerge.data import streams
from fedmerge.data.streams import StreamSpec
from fedmerge.schema.validation import validate
from tests.facts import refused


def test_names_and_forms() -> None:
    forms: list[Any] = ["iid", "temporal", {"dirichlet": 0.05}, {"kind": "dirichlet", "delta": 2}]
    forms += [{"recurring": 3}, {"drift": "bias-field"}, {"note": 0.1}]
    specs = [StreamSpec.model_validate(form) for form in forms]
    names = ["iid", "temporal", "dirichlet-0.05", "dirichlet-2", "recurring-3", "drift-bias-field"]
    names += ["note-0.1"]
    assert [s.name for s in specs] == names
    assert [StreamSpec.model_validate(s.model_dump()) for s in specs] == specs


def test_the_guide_lists_every_kind() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z]+)(?:: [\w.-]+)?` \|", guide, re.MULTILINE)
    assert set(streams.KINDS) <= set(listed)
    assert all(kind in streams.FORMS for kind in streams.KINDS)


def test_a_stream_is_written_with_no_field_that_others_take() -> None:
    """So that what a saved study stands on keeps its name when there is another kind of stream."""
    assert StreamSpec(kind="iid").model_dump(mode="json") == {"kind": "iid", "delta": None}
    assert StreamSpec(kind="recurring", cycles=3).model_dump() == {
        "kind": "recurring",
        "delta": None,
        "cycles": 3,
    }


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("tempral", ("temporal", "bench.yaml", "streams[1]")),
        ("dirichlet", ("dirichlet: 0.05", "bench.yaml", "streams[1]")),
        ({"iid": 3}, ("iid", "given 3")),
        ({"dirichlet": -1}, (0, "greater", "bench.yaml")),
        ({"dirichlet": float("inf")}, ("finite", "bench.yaml")),
        ("note", ("given nothing", "note: 0.05")),
        ({"note": 0}, (0, "greater", "bench.yaml")),
        ({"kind": "note", "delta": 1, "cycles": 2}, ("note", "given 1", 2)),
        ({"dirichlet": 0.1, "temporal": 1}, ("stream", "bench.yaml", "streams[1]")),
        ("recurring", ("given nothing", "recurring: 3")),
        ({"recurring": 0}, (0, "equal", "bench.yaml")),
        ({"recurring": 2.5}, ("given: 2.5", "bench.yaml")),
        ({"drift": "contrst"}, ("contrst", "contrast")),
        ({"kind": "drift", "shift": "blur", "cycles": 2}, ("drift", "given 2", "blur")),
        ({"kind": "iid", "cycles": 2}, ("iid", "given 2", "bench.yaml")),
    ],
)
def test_a_wrong_form_is_a_sentence(form: Any, words: tuple[object, ...]) -> None:
    class Bench(BaseModel):
        streams: list[StreamSpec]

    with refused(*words) as caught:
        validate(Bench, {"streams": ["iid", form]}, "bench.yaml")
    assert str(caught.value).startswith("bench.yaml: ")
    assert "streams[1]" in str(caught.value)
