from __future__ import annotations

from typing import Any

import pytest
from facts import refused
from pydantic import ValidationError

from fedmerge.schema.yaml_text import read_yaml
from fedmerge.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"lr": 0}, ("lr", "0")),
        ({"lr": float("nan")}, ("lr", "nan")),
        ({"momentum": 1.0}, ("momentum", "1")),
        ({"batch_size": 0}, ("batch_size", "1")),
        ({"epochs": 0}, ("epochs", "1")),
        ({"optimizer": "adm"}, ("sgd", "adamw", "adm")),
        ({"augment": ["flop"]}, ("flop", "flip")),
        ({"nesterov": True, "momentum": 0.0}, ("nesterov", "momentum", "0")),
        ({"learning_rate": 0.1}, ("learning_rate",)),
        ({"inmerge": {"alfa": 0.5}}, ("inmerge.alfa",)),
    ],
    ids=str,
)
def test_bad_options_say_what_is_wrong(given: dict[str, Any], sentence: tuple[str, ...]) -> None:
    with refused(*sentence, kind=ValidationError):
        TrainingOptions(**given)


@pytest.mark.parametrize(("skip", "kind"), [(10, int), (0.5, float), (None, type(None))])
def test_inmerge_is_read_from_plain_values(skip: Any, kind: type) -> None:
    options = TrainingOptions.model_validate({"augment": ["flip"], "inmerge": {"skip": skip}})
    assert options.inmerge is not None
    assert options.inmerge.skip == skip
    assert type(options.inmerge.skip) is kind
    assert TrainingOptions.model_validate_json(options.model_dump_json()) == options


def test_off_needs_no_quotes_in_yaml() -> None:
    """YAML 1.1 reads ``off`` as False."""
    given = read_yaml("amp: off", "a file")
    assert given == {"amp": False}
    assert TrainingOptions.model_validate(given).amp == "off"
    with pytest.raises(ValidationError, match="'auto' or 'off'"):
        TrainingOptions.model_validate({"amp": True})
