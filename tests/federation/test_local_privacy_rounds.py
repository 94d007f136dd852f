"""Rounds with local privacy: noised answers go into means, other aggregators and masks."""

import math

import pytest
import torch
from flwr.app import Context, RecordDict

from fedmerge.federation import FederationOptions, LocalGrid, client_app, server_app, simulate
from fedmerge.federation.arrays import borrow
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.privacy.accounting import epsilon
from fedmerge.federation.privacy.noise import norm
from fedmerge.models import average, build, state_hash
from tests.federation.local_noise import LOCAL, OPTIONS


@pytest.fixture
def private(plan):
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})

    def having(privacy, **options):
        rules = FederationOptions.model_validate({"privacy": privacy} | options)
        return plan.model_copy(update={"model": model, "fine_tune": None, "federation": rules})

    return having


def rounds(plan, cohort):
    found = []
    app = server_app(plan, lambda server: found.append((server.rounds(server.start()), server.strategy)))
    simulate(app, cohort.training)
    return found[0]


def test_rounds_are_the_mean_of_what_left_the_hospitals(private, cohort):
    """The server's model is made of noised answers, and each is far from what training gave."""
    changed = private(LOCAL).model_copy(update={"rounds": 1})
    sites, updates = cohort.training, []
    hospitals = [Hospital(site) for site in sites]

    class Grid(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            asked = list(messages)
            replies = list(super().send_and_receive(asked, timeout=timeout))
            for message, reply in zip(asked, replies, strict=True):
                if message.metadata.message_type == "train":
                    updates.append(dict(borrow(reply.content["arrays"])))
            return replies

    found = []
    grid = Grid(client_app(lambda c: hospitals[int(c.node_config["partition-id"])]), len(sites))
    app = server_app(changed, lambda server: found.append(server.rounds(server.start())))
    app(grid=grid, context=Context(1, 0, {}, RecordDict(), {}))
    assert state_hash(found[0]) == state_hash(average(updates, [float(len(site.train)) for site in sites]))
    start = build(changed.model, changed.seed).state_dict()
    floats = [key for key in start if start[key].is_floating_point()]
    size = sum(start[key].numel() for key in floats)
    for update in updates:
        moved = norm(update[key].double() - start[key].double() for key in floats)
        assert moved == pytest.approx(2.0 * math.sqrt(size), rel=7 / math.sqrt(2 * size) + 0.01)


@pytest.mark.parametrize("aggregate", ["median", "norm-clipping"])
def test_noised_updates_go_into_any_aggregator_of_updates(private, cohort, aggregate):
    state, strategy = rounds(private(LOCAL, aggregate=aggregate), cohort)
    rows = [row for row in strategy.history if row["phase"] == "aggregate" and "epsilon" in row]
    assert {row["epsilon"] for row in rows if row["round"] == 2} == {epsilon(OPTIONS, 2)}
    assert all(torch.isfinite(value).all() for value in state.values())


def test_noised_updates_go_under_masks(private, cohort):
    """Simulated noise is the same in both runs, so the masked sum is that of the plain one, to rounding."""
    simulated = LOCAL | {"simulate": True}
    plain, _ = rounds(private(simulated), cohort)
    masked, strategy = rounds(private(simulated, secure_aggregation=True), cohort)
    for key, value in plain.items():
        torch.testing.assert_close(masked[key], value, rtol=1e-3, atol=1e-4)
    assert not any("epsilon" in row for row in strategy.history)
    _, strategy = rounds(private(LOCAL, secure_aggregation=True), cohort)
    spent = {row["site"]: row["releases"] for row in strategy.history if "releases" in row}
    assert spent == {site.name: 2 for site in cohort.training}
