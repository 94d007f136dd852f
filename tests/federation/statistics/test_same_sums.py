"""Sums from hospitals are those over their pooled shares."""

import pytest
import torch
from facts import refused

from fedmerge.federation.hospital.sums.answer import program_of
from tests.federation.statistics.ward import IMAGES, NAMES, assert_same, layers


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_outer_and_moments_are_those_of_the_pooled_shares(ward, activation):
    sums, local = ward.statistics(), ward.local()
    options = {"layers": layers(ward), "activation": activation}
    assert_same(sums.ask("outer", options, {}), local.ask("outer", options, {}))
    assert_same(sums.ask("moments", {}, {}), local.ask("moments", {}, {}))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("inputs", {}), ("importance", {"kind": "uniform"}), ("importance", {"kind": "conductance"})],
)
def test_what_belongs_to_a_model_comes_from_the_hospital_of_its_name(ward, kind, options):
    found = ward.statistics().ask(kind, options, {})
    expected = {"images": torch.tensor(float(sum(IMAGES.values())), dtype=torch.float64)}
    for m, name in enumerate(NAMES):
        own = ward.local([name], own=m).ask(kind, options, {})
        expected |= {key: value for key, value in own.items() if key != "images"}
    assert_same(found, expected)


def test_a_walk_is_that_over_the_pooled_shares(ward):
    """Each layer is changed once its sums are known, as a fusion does; the next sums depend on it."""
    sums, local = ward.statistics(), ward.local()
    state = {key: value.clone() for key, value in ward.states["alpha"].items()}
    noise = torch.Generator().manual_seed(0)
    for statistics in (sums, local):
        statistics.ask("walk", {}, state)
    changed = {}
    for layer in program_of(ward.server.plan.model).layers:
        name, n = layer.name, state[layer.weight].shape[0]
        mix = torch.randn(n, len(NAMES) * n, generator=noise, dtype=torch.float64)
        for kind, tensors in (("layer", changed), ("layer", {".mix": mix}), ("fused-moments", {})):
            answers = [statistics.ask(kind, {"name": name}, tensors) for statistics in (sums, local)]
            assert_same(*answers)
        changed = {layer.weight: torch.randn(state[layer.weight].shape, generator=noise)}


def test_the_moments_before_a_batch_norm_are_those_of_the_pooled_shares(ward):
    sums, local = ward.statistics(), ward.local()
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["beta"])
    norms = [key for key in ward.states["beta"] if key.endswith("running_mean")]
    changed = {}
    for index, key in enumerate(norms):
        request = ("norm-moments", {"index": index}, changed)
        assert_same(sums.ask(*request), local.ask(*request))
        changed = {key: ward.states["gamma"][key] + 1}
    assert len(norms) > 1


def test_a_hospital_without_a_model_adds_to_what_is_of_all_models_only(ward):
    """Two parents, three hospitals: gamma counts in the moments, not in the inputs."""
    two = {name: ward.states[name] for name in ("alpha", "beta")}
    sums = ward.statistics(parents=two)
    assert float(sums.ask("moments", {}, {})["images"]) == sum(IMAGES.values())
    assert float(sums.ask("inputs", {}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]


def test_a_model_whose_hospital_gives_nothing_is_refused_where_its_own_images_count(ward):
    sums = ward.statistics(images={"alpha": 18, "beta": 18})
    assert float(sums.ask("moments", {}, {})["images"]) == 36
    with refused("gamma", "hospital"):
        sums.ask("inputs", {}, {})
