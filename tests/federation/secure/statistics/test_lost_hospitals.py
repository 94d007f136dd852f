"""Hospitals that are lost in a sum under masks are in none of it, or end the fusion."""

import numpy as np
import pytest
import torch
from facts import refused

from fedmerge.federation.hospital.secure.rounds import SecureHospital
from tests.federation.secure.statistics.asking import IMAGES, NAMES, OUTER, ask, node


@pytest.mark.parametrize("step", ["query.secure_sums", "query.secure_shares", "query.secure_masked"])
def test_a_hospital_lost_in_the_first_request_is_in_no_sum(ward, states, cohort, step):
    """The others go on without it, with all requests and in the next fusion; sums are those of three."""
    server = ward()
    server.grid.lost[step] = [node(server, "beta")]
    statistics = server.statistics(states, IMAGES, "train")
    found = statistics.ask(*OUTER)
    server.grid.lost.clear()
    moments = statistics.ask("moments", {}, {})
    rest = [site for site in cohort.sites if site.name != "beta"]
    expected = ask(ward(masked=False, sites=rest), states)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    later = server.statistics(states, IMAGES, "train").ask("moments", {}, {})
    for sums in (moments, later):
        assert float(sums["images"]) == sum(IMAGES.values()) - IMAGES["beta"]
    assert {failure.site for failure in server.strategy.failures} == {"beta"}


def test_a_hospital_that_vanishes_when_masks_come_off_is_in_the_sum(ward, states):
    server = ward()
    server.grid.lost["query.secure_unmask"] = [node(server, "beta")]
    statistics = server.statistics(states, IMAGES, "train")
    assert float(statistics.ask(*OUTER)["images"]) == sum(IMAGES.values())
    server.grid.lost.clear()
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


@pytest.mark.parametrize("step", ["query.secure_sums", "query.secure_masked"])
def test_a_hospital_lost_later_ends_the_fusion_and_its_sums_stay_its_own(ward, states, step):
    """The diagonal of ``outer`` holds sums of squares that ``moments`` holds, too: a sum of three hospitals
    would show the fourth's. Nothing is unmasked; when all are there again, it goes on."""
    server = ward()
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    server.grid.lost[step] = [node(server, "beta")]
    server.grid.carried.clear()
    with refused("beta", "hospitals"):
        statistics.ask("moments", {}, {})
    assert "query.secure_unmask" not in server.grid.kinds()
    server.grid.lost.clear()
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


def test_retry_asks_again_when_the_hospital_is_back(ward, states):
    server = ward(on_failure="retry")
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    server.grid.lost["query.secure_masked"] = [node(server, "beta")]
    seen = []

    def back(message):
        seen.append(message.metadata.message_type)
        if seen.count("query.secure_sums") > len(NAMES):
            server.grid.lost.clear()

    server.grid.before = back
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


def test_of_three_hospitals_none_can_be_lost(ward, states, cohort):
    server = ward(sites=cohort.training)
    server.grid.lost["query.secure_masked"] = [node(server, "beta")]
    with refused("2", "3", "hospitals"):
        ask(server, states)


def test_garbage_is_no_sum(ward, states, monkeypatch):
    masked, rng = SecureHospital.masked, np.random.default_rng(0)

    def garbage(self, message):
        reply = masked(self, message)
        record = reply.content.array_records["arrays"]
        if self.name == "beta":
            numbers = rng.integers(-(2**63), 2**63, record["numbers"].shape)
            record["numbers"] = type(record["numbers"])(numbers)
        return reply

    monkeypatch.setattr(SecureHospital, "masked", garbage)
    with refused("no sum under masks"):
        ask(ward(), states)
