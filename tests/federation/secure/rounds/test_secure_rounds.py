"""Secure rounds of a federation: the mean and the scores come out, and no hospital's do."""

import json

import numpy as np
import pytest
import torch

from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.app import SECURE
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.privacy.masked import encode_weights
from fedmerge.models import state_hash
from tests.federation.secure.rounds.serving import check_close, rows, ward

NUMBERS = ("num-examples", "loss", "accuracy", "balanced_accuracy", "steps", "merges")


def test_a_round_is_the_plain_mean_to_rounding(secure, plain, cohort):
    """One round: all weights differ by 2^-31 at most, and a float32's own rounding."""
    found, expected = (ward(p, cohort.sites) for p in (secure, plain))
    start = found.start()
    one, other = (server.strategy.round(server.grid, 1, start) for server in (found, expected))
    for key, value in other.items():
        if "running_var" not in key and value.is_floating_point():
            error = (one[key].double() - value.double()).abs()
            assert bool((error <= 2.0**-30 + value.abs().double() * 2.0**-23).all())


def test_scores_are_those_of_all_images(secure, plain, cohort):
    """Means by images of what the same hospitals say in the open; rows are about everyone."""
    found, expected = (ward(p, cohort.sites) for p in (secure, plain))
    for server in (found, expected):
        server.rounds(server.start())
    for phase, split in (("train", "num-examples"), ("validate", "num-examples")):
        for round in (1, 2):
            (row,) = [row for row in rows(found, phase) if row["round"] == round]
            each = [row for row in rows(expected, phase) if row["round"] == round]
            images = sum(one[split] for one in each)
            assert (row["site"], row["num-examples"]) == ("everyone", images)
            for name in row.keys() & {"loss", "accuracy", "balanced_accuracy", "steps", "merges"}:
                mean = sum(one[split] * one[name] for one in each) / images
                assert row[name] == pytest.approx(mean, rel=1e-4)


def test_nothing_of_one_hospital_is_in_any_message(secure, plain, cohort):
    """No count, score or weight in the open, no private key, nothing of the Context's state."""
    open_ = ward(plain, cohort.sites)
    start = open_.start()
    open_.strategy.round(open_.grid, 1, start)
    weights = {}
    for message, reply_message, arrays in open_.grid.carried:
        if message.metadata.message_type == "train":
            state = {key: torch.from_numpy(array) for key, array in arrays.items()}
            weights[reply_message.metadata.src_node_id] = encode_weights(state, 1, plain.batch_norm)
    server = ward(secure, cohort.sites, contexts=True)
    server.grid.carried.clear()
    server.strategy.round(server.grid, 1, start)
    contexts = server.grid._contexts
    for message, reply_message, arrays in server.grid.carried:
        assert not reply_message.has_error()
        for metrics in reply_message.content.metric_records.values():
            assert not set(metrics) & set(NUMBERS)
        assert set(reply_message.content) <= {"metrics", "arrays", "texts"}
        state = contexts[reply_message.metadata.src_node_id].state[SECURE]
        private = json.loads(state["sum"].numpy().tobytes())["secrets"]
        private.append(json.loads(state["self"].numpy().tobytes())["key"])
        text = str(reply_message.content.config_records)
        assert not any(secret in text or secret in str(message.content) for secret in private)
        own = weights[reply_message.metadata.src_node_id].view(np.int64)
        for numbers in arrays.values():
            assert not np.isin(own, numbers).any()


def test_a_new_process_for_every_message_gives_the_same(secure, cohort):
    one, other = ward(secure, cohort.sites), ward(secure, cohort.sites, contexts=True)
    found = [state_hash(server.rounds(server.start())) for server in (one, other)]
    assert found[0] == found[1]


@pytest.mark.parametrize("step", ["train.secure", "query.secure_shares", "query.secure_masked"])
def test_a_hospital_of_four_that_is_lost_is_not_in_the_sum(secure, plain, cohort, step):
    server = ward(secure, cohort.sites)
    server.grid.lost[step] = [server.clients[1].node_id]
    names = [member.name for member in server.clients]
    start = server.start()
    found = server.strategy.round(server.grid, 1, start)
    expected = ward(plain, [site for site in cohort.sites if site.name != names[1]])
    check_close(found, expected.strategy.round(expected.grid, 1, start))
    assert [row["site"] for row in rows(server, "aggregate")] == [names[0], *names[2:]]
    assert {failure.site for failure in server.strategy.failures} == {names[1]}


def test_a_hospital_that_vanishes_when_masks_come_off_is_in_the_sum(secure, plain, cohort):
    server, expected = ward(secure, cohort.sites), ward(plain, cohort.sites)
    server.grid.lost["query.secure_unmask"] = [server.clients[1].node_id]
    start = server.start()
    found = server.strategy.round(server.grid, 1, start)
    check_close(found, expected.strategy.round(expected.grid, 1, start))


def test_the_mean_update_has_a_longest_norm(secure, cohort):
    """max_norm is of the mean, which is all that the server has."""

    def after(max_norm):
        rules = FederationOptions(secure_aggregation=True, max_norm=max_norm)
        server = ward(secure.model_copy(update={"federation": rules}), cohort.sites)
        return state_hash(server.strategy.round(server.grid, 1, server.start())), server

    free, _ = after(None)
    assert after(1e6)[0] == free
    hashed, server = after(1e-6)
    assert hashed == state_hash(server.start())
    assert "the mean update has norm" in server.strategy.failures[0].reason


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.memory", "query.sums_begin", "query.sums"])
def test_secure_only_refuses_what_is_not_masked(plan, cohort, folders, kind):
    (folders["alpha"] / "policy.yaml").write_text("secure: only\n")
    server = ward(plan, cohort.training, folders)
    (reply_message,) = server.grid.send_and_receive(
        [request_message(kind, server.clients[0].node_id, "", {}, None)]
    )
    assert "the policy of 'alpha' is 'secure: only'" in reply_message.error.reason


def test_the_policy_says_of_how_many_hospitals_a_sum_must_be(secure, cohort, folders):
    (folders["alpha"] / "policy.yaml").write_text(f"secure_hospitals: {len(cohort.sites) + 1}\n")
    server = ward(secure, cohort.sites, folders)
    server.strategy.round(server.grid, 1, server.start())
    reasons = {failure.site: failure.reason for failure in server.strategy.failures}
    assert "at least 5 hospitals, but the list has 4" in reasons["alpha"]
    (folders["alpha"] / "policy.yaml").write_text(f"secure_hospitals: {len(cohort.sites)}\n")
    whole = ward(secure, cohort.sites, folders)
    whole.strategy.round(whole.grid, 2, whole.start())
    assert whole.strategy.failures == []


def test_secure_only_takes_part_in_secure_rounds(secure, cohort, folders):
    for folder in folders.values():
        (folder / "policy.yaml").write_text("secure: only\n")
    server = ward(secure, cohort.sites, folders)
    state = server.rounds(server.start())
    assert server.strategy.failures == []
    assert set(server.numbers(state)) == {"accuracy", "balanced_accuracy", "loss", "temperature"}
