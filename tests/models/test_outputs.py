from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from fedmerge.models.outputs import logits_of
from tests.facts import refused

LOGITS, OTHER = torch.zeros(2, 3), torch.ones(2, 5)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"aux": OTHER, "logits": LOGITS},
        OrderedDict(aux=OTHER, out=LOGITS),
        namedtuple("Outputs", "aux logits")(OTHER, LOGITS),
        SimpleNamespace(loss=None, logits=LOGITS),
        (LOGITS, OTHER),
        [LOGITS],
    ],
)
def test_logits_are_found_in_what_models_return(output) -> None:  # type: ignore[no-untyped-def]
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [{"scores": LOGITS}, (), (None, LOGITS), 3.0, None])
def test_where_no_logits_are_a_sentence_says_so(output) -> None:  # type: ignore[no-untyped-def]
    with refused("net", "logits", "out"):
        logits_of(output, "'net'")
