"""Hospitals that forget, fail or answer what cannot be used are left out of the sums, or end the fusion."""

import pytest
import torch
from facts import refused

from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.sums.answer import program_of
from tests.federation.statistics.ward import BETA, IMAGES, assert_same, layers


@pytest.mark.parametrize("kind", ["layer", "moments"])
def test_a_hospital_that_lost_the_models_gets_them_and_the_walk_again(ward, kind):
    sums, local = ward.statistics(), ward.local()
    first, second, _ = program_of(ward.server.plan.model).layers[:3]
    changed = {first.weight: ward.states["gamma"][first.weight] * 2}
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
    ward.hospitals[1].sums.session = None
    request = (kind, {"name": second.name} if kind == "layer" else {}, changed if kind == "layer" else {})
    assert_same(sums.ask(*request), local.ask(*request))
    assert ward.server.strategy.failures == []


def test_a_lost_walk_goes_on_with_the_entries_changed_before_it_was_lost(ward):
    sums, local = ward.statistics(), ward.local()
    first, second, third = program_of(ward.server.plan.model).layers[:3]
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
        statistics.ask("layer", {"name": second.name}, {first.weight: ward.states["gamma"][first.weight] * 2})
    for hospital in ward.hospitals:
        hospital.sums.session = None
    assert_same(*(statistics.ask("layer", {"name": third.name}, {}) for statistics in (sums, local)))


def test_a_hospital_that_keeps_nothing_is_left_out(ward):
    def forget(message):
        ward.hospitals[0].sums.session = None

    ward.grid.before = forget
    found = ward.statistics().ask("moments", {}, {})
    assert float(found["images"]) == IMAGES["beta"] + IMAGES["gamma"]
    (failure,) = ward.server.strategy.failures
    assert (failure.site, failure.phase) == ("alpha", "sums")
    assert "keep its process running" in failure.reason


def spoil(name, fault):
    """Do ``fault(sums, name)`` to the sums that beta answers."""

    def after(reply):
        if reply.has_error() or "arrays" not in reply.content or reply.metadata.src_node_id != BETA:
            return
        sums = reply.content["arrays"].to_torch_state_dict()
        fault(sums, name)
        reply.content["arrays"] = type(reply.content["arrays"])(sums)

    return after


def not_finite(sums, name):
    sums[name].view(-1)[0] = float("nan")


def too_short(sums, name):
    sums[name] = sums[name].view(-1)[:-1]


def single_precision(sums, name):
    sums[name] = sums[name].float()


def missing(sums, name):
    del sums[name]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (not_finite, "not finite"),
        (too_short, "of shape"),
        (single_precision, "float32"),
        (missing, "lacks the tensor 'rows/"),
    ],
)
def test_sums_that_cannot_be_used_leave_their_hospital_out(ward, fault, words):
    name = f"rows/{layers(ward)[0]}" if fault is missing else f"0/{layers(ward)[0]}"
    ward.grid.after = spoil(name, fault)
    sums = ward.statistics()
    assert_same(sums.ask("moments", {}, {}), ward.local(["alpha", "gamma"]).ask("moments", {}, {}))
    ward.grid.after = lambda reply: None
    again = sums.ask("outer", {"layers": layers(ward)[:1]}, {})
    assert float(again["images"]) == IMAGES["alpha"] + IMAGES["gamma"]
    (failure,) = ward.server.strategy.failures
    assert failure.site == "beta"
    assert words in failure.reason


def test_a_hospital_that_fails_in_a_walk_is_in_no_later_sum(ward, monkeypatch):
    sums = ward.statistics()
    first, second = layers(ward)[:2]
    sums.ask("walk", {}, ward.states["alpha"])
    assert float(sums.ask("layer", {"name": first}, {})["images"]) == sum(IMAGES.values())
    monkeypatch.setattr(ward.hospitals[2].sums, "reply", lambda message: 1 / 0)
    assert float(sums.ask("layer", {"name": second}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]
    monkeypatch.undo()
    assert float(sums.ask("moments", {}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]
    (failure,) = ward.server.strategy.failures
    assert (failure.site, failure.reason) == ("gamma", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"federation": FederationOptions(quorum=3)},
            ("2", "3", "gamma", "ZeroDivisionError"),
        ),
        (
            {"federation": FederationOptions(on_failure="abort")},
            ("gamma", "hospital", "failed"),
        ),
    ],
)
def test_the_quorum_and_an_abort_end_the_fusion(open_ward, monkeypatch, changes, words):
    ward = open_ward(**changes)
    monkeypatch.setattr(ward.hospitals[2].sums, "reply", lambda message: 1 / 0)
    with refused(*words):
        ward.statistics().ask("moments", {}, {})


def test_a_small_share_and_other_classes_are_refused_by_the_hospital(open_ward, plan):
    ward = open_ward()
    found = ward.statistics(images=IMAGES | {"beta": 15}).ask("moments", {}, {})
    assert float(found["images"]) == IMAGES["alpha"] + IMAGES["gamma"]
    assert "at least 16 images" in ward.server.strategy.failures[0].reason
    with refused("3", "classes", "4"):
        open_ward(model=plan.model.model_copy(update={"n_classes": 4}))


def test_wrong_requests_are_sentences_at_the_server(ward):
    with refused("alhpa", "alpha"):
        ward.statistics(images={"alhpa": 20})
    with refused("features.0.weight", "lacks"):
        ward.statistics().ask("walk", {}, {"weight": torch.zeros(1)})
