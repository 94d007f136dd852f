"""Servers that lie get no sum of which another would show one hospital's part."""

import pytest
import torch
from facts import refused

from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.hospital.sums.rules import SIMULATED
from tests.federation.secure.statistics.asking import IMAGES, OUTER, ask, node, reasons


@pytest.mark.parametrize("sums_asked", [OUTER, ("moments", {}, {})])
def test_after_a_restart_no_sum_is_given_without_one_hospital(ward, states, cohort, folders, sums_asked):
    """The same request, or another over the same images, whatever the run is called: from what the server
    has it could take the fourth's sums. The first list is answered again."""
    first = ask(ward(folders=folders), states)
    again = ward(sites=cohort.sites[:3], folders=folders)
    with refused("no sum under masks"):
        ask(again, states, *sums_asked)
    assert "difference of two sums would show" in reasons(again)
    assert not any("numbers" in arrays for *_, arrays in again.grid.carried)
    repeated = ask(ward(folders=folders), states)
    assert all(torch.equal(first[key], repeated[key]) for key in first)


def test_nor_for_other_models_or_a_larger_share(ward, states, cohort, folders):
    """Sixteen images more of one and twenty of another are sets that the ledger of sums allows."""
    ask(ward(folders=folders), states)
    nudged = {
        name: {key: v * 1.001 if v.is_floating_point() else v for key, v in state.items()}
        for name, state in states.items()
    }
    more = {name: n + 16 for name, n in IMAGES.items()}
    for given, images in ((nudged, IMAGES), (states, more)):
        again = ward(sites=cohort.sites[:3], folders=folders)
        with refused("no sum under masks"):
            ask(again, given, images=images)
        assert "has given sums over these images under masks with" in reasons(again)
    assert float(ask(ward(folders=folders), states, images=more)["images"]) == sum(more.values())


def test_sets_that_differ_by_few_images_are_refused_as_ever(ward, states, folders):
    """And without that hospital the others give no sum either."""
    ask(ward(folders=folders), states)
    again = ward(folders=folders)
    with refused("no sum under masks"):
        ask(again, states, images=IMAGES | {"beta": 21})
    (failure,) = [failure for failure in again.strategy.failures if failure.phase == "sums"]
    assert failure.site == "beta"
    assert "1 of them could be told apart" in failure.reason


def test_a_hospital_counts_the_requests_that_it_answers_under_masks(ward, states):
    server = ward()
    for hospital in server.kept:
        hospital.sums.ledger.rules = SIMULATED.model_copy(update={"requests": 1})
    ask(server, states)
    with refused("answered", "1", "requests"):
        ask(server, states, "moments", {}, {})


def zeros(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


def test_models_without_weights_for_the_others_give_no_sum(ward, states):
    """Their part would be zero, and the sum the first hospital's own. The label tells them apart."""
    server = ward()
    statistics = server.statistics(states, IMAGES, "train")
    other = server.statistics({name: zeros(state) for name, state in states.items()}, IMAGES, "train")
    victim = node(server, "alpha")

    def swap(message):
        about = message.metadata
        begins = about.message_type == "query.secure_sums_begin" and "arrays" in message.content
        if begins and about.dst_node_id != victim:
            message.content["arrays"] = other._weights

    server.grid.before = swap
    from fedmerge.federation.hospital.sums import answer as hospital

    hospital._HELD.clear()
    server.kept[0].sums.session = None
    with refused("no sum under masks"):
        hospital_states_apart(statistics)
    assert reasons(server).count("was asked another request than the label of the sum says") >= 1


def hospital_states_apart(statistics):
    """Hospitals of one process share the models of a session; here each reads those that it was sent."""
    from fedmerge.federation.hospital.sums import answer as hospital

    class Nothing(dict):
        def __setitem__(self, key, value):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hospital, "_HELD", Nothing())
        return statistics.ask(*OUTER)


@pytest.mark.parametrize("trick", ["another fused model", "changed behind the walk", "a walk in the open"])
def test_nor_does_another_walk_for_the_others(ward, states, trick):
    """With weights of zero the others' ``gram`` and ``cross`` would be zero."""
    server = ward()
    first, second = program_of(server.plan.model).layers[:2]
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    fake = zeros(states["alpha"])
    victim = server.kept[0]
    statistics.ask("walk", {}, states["alpha"])
    for hospital in server.kept:
        if hospital is victim:
            continue
        session = hospital.sums.session
        if trick == "another fused model":
            session.take("walk", fake, True)
            session.statistics[0].ask("walk", {}, fake)
        elif trick == "a walk in the open":
            session.take("walk", fake, False)
            session.statistics[0].ask("walk", {}, fake)
    sums_asked, sent = ("layer", {"name": first.name}, {}), len(server.grid.carried)
    if trick == "changed behind the walk":
        statistics.ask("layer", {"name": second.name}, {})
        sums_asked = ("layer", {"name": second.name}, {first.weight: fake[first.weight]})
        sent = len(server.grid.carried)
    said = {
        "another fused model": ("another", "request", "label"),
        "changed behind the walk": ("cannot be changed",),
        "a walk in the open": ("in the open",),
    }[trick]
    with refused(*said):
        statistics.ask(*sums_asked)
    assert not any("numbers" in arrays for *_, arrays in server.grid.carried[sent:])
