"""What a program passes has the type that is said, or is refused by name; over every test-time method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import fedmerge as fm
from fedmerge.schema.typed import check_arguments, check_types
from fedmerge.testtime import TESTTIME
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.options import Coefficients, Norms
from fedmerge.testtime.probe import Probe
from tests.facts import refused


@dataclass(frozen=True)
class Options:
    rate: float = 0.1
    steps: int | None = None
    flip: bool = False
    order: Literal["batch", "image"] = "batch"


def net() -> nn.Module:
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, 3))


@pytest.mark.parametrize(
    "good", [{}, {"rate": 1}, {"rate": np.float32(1)}, {"steps": np.int64(3)}, {"steps": None}]
)
def test_numbers_of_every_kind_pass(good: dict[str, Any]) -> None:
    check_types(Options(**good))


@pytest.mark.parametrize(
    "bad",
    [
        {"rate": "1"},
        {"rate": True},
        {"rate": None},
        {"steps": 2.5},
        {"flip": 1},
        {"flip": "no"},
        {"order": 3},
    ],
)
def test_another_type_is_named(bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with refused(name, "Options", repr(value)):
        check_types(Options(**bad))


def test_unknown_words_are_left_to_whose_option_it_is() -> None:
    check_types(Options(order="images"))  # type: ignore[arg-type]


def test_arguments_are_checked_by_keyword() -> None:
    def call(first: int, *, rate: float = 1.0) -> None: ...

    check_arguments(call, {"rate": 2, "other": "x"}, "call")
    with refused("rate", "call", "'2'"):
        check_arguments(call, {"rate": "2"}, "call")


@pytest.mark.parametrize("name", TESTTIME.names())
def test_every_option_of_every_test_time_method_refuses_what_it_can_not_be(name: str) -> None:
    """No option takes a complex number, and none that is not text takes a text."""
    method, models = TESTTIME[name], [net(), net()]
    for option, field in method.options.model_fields.items():
        bad = [3 + 1j, object()] + ([] if "str" in str(field.annotation) else ["1"])
        for value in bad:
            with pytest.raises(fm.FedMergeError, match=option if value != "1" else ""):
                method.call(models, **{option: value})


@pytest.mark.parametrize("option", ["score", "start", "statistics", "seed", "names", "after", "batch_norm"])
def test_merge_refuses_what_an_option_can_not_be(option: str) -> None:
    with refused(option, "merge"):
        fm.merge([net(), net()], **{option: 3 + 1j})


@pytest.mark.parametrize("group", [Coefficients, Norms, Probe, Guard])
def test_groups_of_options_refuse_text_for_numbers(group: Any) -> None:
    first = next(name for name, kind in group.__annotations__.items() if "float" in kind or "int" in kind)
    with refused(first, group.__name__):
        group(**{first: "1"})


def test_a_tensor_of_temperatures_is_a_sequence_of_numbers() -> None:
    given = torch.tensor([1.0, 2.0]).tolist()
    assert fm.StreamAdaptive([net(), net()], source_temperatures=given) is not None
