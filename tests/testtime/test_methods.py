from __future__ import annotations

import math

import pytest

from fedmerge.errors import FedMergeError
from fedmerge.testtime import TESTTIME, EntropyAdaptive


def test_the_node_is_known_by_name_with_what_it_needs() -> None:
    method = TESTTIME["entropy-adaptive"]
    assert method.call is EntropyAdaptive
    assert method.needs.names() == ["individual models", "unlabelled batches"]
    assert "2602.21372" in method.paper


def test_its_options_are_typed() -> None:
    method = TESTTIME["entropy-adaptive"]
    given = {"temperature": math.inf, "head": "shared", "batch_norm": "average", "head_module": "fc"}
    assert method.check(given) == given
    with pytest.raises(FedMergeError, match="head"):
        method.check({"head": "both"})
    with pytest.raises(FedMergeError, match="Did you mean 'temperature'"):
        method.check({"temprature": 1.0})
