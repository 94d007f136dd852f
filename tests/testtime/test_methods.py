from __future__ import annotations

import math

from torch import nn

from fedmerge.testtime import TESTTIME, EntropyAdaptive
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.options import Coefficients, Prediction
from fedmerge.testtime.probe import Probe
from tests.facts import refused


def test_the_node_is_known_by_name_with_what_it_needs() -> None:
    method = TESTTIME["entropy-adaptive"]
    assert method.call is EntropyAdaptive
    assert method.needs.names() == ["individual models", "unlabelled batches"]
    assert "2602.21372" in method.paper


def test_its_options_are_typed() -> None:
    method = TESTTIME["entropy-adaptive"]
    given = {"coefficients": {"temperature": math.inf, "head": "shared"}, "predict": {"head_module": "fc"}}
    expected = {
        "coefficients": Coefficients(temperature=math.inf, head="shared"),
        "predict": Prediction(head_module="fc"),
    }
    assert method.check(given | {"batch_norm": "average"}) == expected | {"batch_norm": "average"}
    with refused("coefficients.head", "test-time", "entropy-adaptive"):
        method.check({"coefficients": {"head": "both"}})
    with refused("coefficients.temprature", "Did you mean 'temperature'", "agreement"):
        method.check({"coefficients": {"temprature": 1.0}})
    with refused("norms.prior", "number"):
        method.check({"norms": {"prior": True}})


def test_a_guard_and_a_probe_are_mappings_in_a_file(models: list[nn.Module]) -> None:
    method = TESTTIME["entropy-adaptive"]
    checked = method.check({"guard": {"patience": 3, "reference": "ensemble"}, "probe": {"images": 8}})
    assert checked == {"guard": Guard(reference="ensemble", patience=3), "probe": Probe(images=8)}
    assert method.call(models, **checked).probe == Probe(images=8)
    with refused(0, "probe"):
        method.check({"probe": {"images": 0}})
    with refused("patiense", "test-time"):
        method.check({"guard": {"patiense": 3}})
