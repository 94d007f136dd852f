"""Models whose weights are no numbers to add are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedmerge.testtime import TESTTIME
from tests.facts import refused
from tests.testtime.every_method import each


def _lazy(model: nn.Module) -> nn.Module:
    model.fc = nn.LazyLinear(4)
    return model


def _complex(model: nn.Module) -> nn.Module:
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return model


def _sparse(model: nn.Module) -> nn.Module:
    model.register_buffer("mask", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lazy, ("fc.weight", 0, "initialised")),
        (lambda model: model.to("meta"), ("conv.weight", 0, "meta")),
        (_complex, ("phase", "complex")),
        (_sparse, (0, "dense")),
        (lambda model: model.to(torch.float8_e4m3fn), ("float8_e4m3fn", "conv.weight")),
        (
            lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}),
            ("quantised", "fc._packed_params.dtype"),
        ),
        (lambda model: model.state_dict(), (0, "OrderedDict", "nn.Module", "models")),
    ],
    ids=["lazy", "meta", "complex", "sparse", "float8", "quantised", "state dict"],
)
@each
@pytest.mark.filterwarnings("ignore")
def test_models_without_arithmetic_are_sentences(
    name: str, models: list[nn.Module], change: Any, words: tuple[object, ...]
) -> None:
    with refused(*words):
        TESTTIME[name].call([change(model) for model in models])
