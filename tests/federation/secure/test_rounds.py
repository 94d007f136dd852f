"""Secure rounds of a federation: the mean and the scores come out, no hospital's do, and runs go on."""

import json

import numpy as np
import pytest
import torch
from facts import refused

from fedmerge.federation import FederationOptions, LocalGrid, Server, client_app
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.hospital.app import SECURE
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.privacy.masked import encode_weights
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import state_hash

NUMBERS = ("num-examples", "loss", "accuracy", "balanced_accuracy", "steps", "merges")


class Watched(LocalGrid):
    """A grid that keeps what it carried, and loses the replies of hospitals in ``lost``, by message type."""

    def __init__(self, app, n):
        super().__init__(app, n)
        self.carried, self.lost = [], {}

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            for reply_message in super().send_and_receive([message]):
                records = {} if reply_message.has_error() else reply_message.content.array_records
                arrays = {k: a.numpy().copy() for record in records.values() for k, a in record.items()}
                self.carried.append((message, reply_message, arrays))
                if reply_message.metadata.src_node_id not in self.lost.get(message.metadata.message_type, ()):
                    yield reply_message

    def kinds(self):
        return [message.metadata.message_type for message, *_ in self.carried]


@pytest.fixture
def secure(plan):
    """Two secure rounds of a network with batch norm."""
    return plan.model_copy(
        update={"fine_tune": None, "federation": FederationOptions(secure_aggregation=True)}
    )


@pytest.fixture
def plain(plan):
    """The same rounds in the open."""
    return plan.model_copy(update={"fine_tune": None})


def ward(plan, sites, folders=None, contexts=False):
    """A server and its hospitals. folders: of nodes, by site. contexts: a new process for every message."""
    folders = folders or {}
    kept = [Hospital(site, folder=folders.get(site.name)) for site in sites]

    def hospital_of(context):
        i = int(context.node_config["partition-id"])
        return Hospital(sites[i], folder=folders.get(sites[i].name)) if contexts else kept[i]

    return Server(Watched(client_app(hospital_of, memory_in_context=contexts), len(sites)), plan)


@pytest.fixture
def folders(cohort, tmp_path):
    """Folders of deployed nodes with keys; each has pinned the others'."""
    made, keys = {}, {}
    for site in cohort.sites:
        made[site.name] = tmp_path / site.name
        made[site.name].mkdir()
        keys[site.name] = read_public(make_node_key(made[site.name]))
    for name, folder in made.items():
        SecureHospital(name, folder).peers.pin(keys)
    return made


def rows(server, phase):
    return [row for row in server.strategy.history if row["phase"] == phase]


def check_close(found, expected):
    """Two rounds of rounding to 2^-31, which training may enlarge."""
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


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


def test_too_few_make_a_void_round_and_the_run_goes_on(secure, cohort):
    """Of three, one is lost in round 1: void, with its reason; round 2 is whole."""
    server = ward(secure, cohort.training)
    start = server.start()
    server.grid.lost["query.secure_masked"] = [server.clients[1].node_id]
    first = server.strategy.round(server.grid, 1, start)
    assert state_hash(first) == state_hash(start)
    server.grid.lost.clear()
    second = server.strategy.round(server.grid, 2, first)
    assert state_hash(second) != state_hash(start)
    void = [(f.round, f.phase, f.site, f.then) for f in server.strategy.failures if f.kind == "void"]
    assert void == [(1, "sum", "everyone", "round void"), (1, "validate", "everyone", "round void")]
    assert "2 of 3 hospitals gave masked numbers, and a sum takes 3" in server.strategy.failures[1].reason


def test_abort_ends_the_run_with_a_void_round(secure, cohort, monkeypatch):
    """A sum that is nonsense, though every hospital answered."""
    changed = secure.model_copy(
        update={"federation": FederationOptions(secure_aggregation=True, on_failure="abort")}
    )
    server = ward(changed, cohort.training)
    spoil(monkeypatch, "beta")
    with refused("round", "1", "on_failure"):
        server.rounds(server.start())


def spoil(monkeypatch, name, rng=None):
    """The masked numbers of one hospital become uniform garbage."""
    masked, rng = SecureHospital.masked, rng or np.random.default_rng(0)

    def garbage(self, message):
        reply_message = masked(self, message)
        if self.name == name:
            record = reply_message.content.array_records["arrays"]
            numbers = rng.integers(-(2**63), 2**63, record["numbers"].shape)
            record["numbers"] = type(record["numbers"])(numbers)
        return reply_message

    monkeypatch.setattr(SecureHospital, "masked", garbage)


def test_garbage_makes_a_void_round_not_a_broken_model(secure, cohort, monkeypatch):
    server = ward(secure, cohort.sites)
    spoil(monkeypatch, "beta")
    start = server.start()
    found = server.strategy.round(server.grid, 1, start)
    assert state_hash(found) == state_hash(start)
    assert [f.phase for f in server.strategy.failures] == ["sum", "validate"]


def test_a_hospital_that_counts_other_images_than_it_has_makes_a_void_round(secure, cohort, monkeypatch):
    """It says that it has 60,000,000,000 images, so that the mean would be its own."""
    from fedmerge.federation.hospital import hospital

    encode = hospital.encode_means

    def lie(images, values):
        lie.calls += 1
        return encode(images * (10**9 if lie.calls == 2 else 1), values)

    lie.calls = 0
    monkeypatch.setattr(hospital, "encode_means", lie)
    server = ward(secure, cohort.sites)
    start = server.start()
    assert state_hash(server.strategy.round(server.grid, 1, start)) == state_hash(start)
    assert "images, but its hospitals said that they have" in server.strategy.failures[0].reason


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


def test_a_score_that_cannot_be_summed_stops_nothing(secure, cohort):
    """Else a run whose last scores were asked for with one hospital more could never end."""
    server = ward(secure, cohort.training)
    server.grid.lost["query.secure_masked"] = [server.clients[1].node_id]
    numbers = server.numbers(server.start())
    assert set(numbers) == {"accuracy", "balanced_accuracy", "loss", "temperature"}
    assert all(np.isnan(value) for value in numbers.values())
    assert [(f.phase, f.kind) for f in server.strategy.failures][-1] == ("score", "void")
    with refused("2", "3", "hospitals"):
        server.score(server.start())


# Rounds that are repeated


def test_a_repeated_round_with_one_hospital_less_gives_no_second_sum(secure, cohort, folders):
    """The attack that took the weights of a hospital out of two sums, to 2e-7: now the second is refused.

    Four hospitals' sum; the server loses it, and is started again without the fourth; training is
    deterministic, so it gives the same weights. Whatever the server calls the run.
    """
    server = ward(secure, cohort.sites, folders, contexts=True)
    start = server.start()
    four = server.strategy.round(server.grid, 1, start)
    assert state_hash(four) != state_hash(start)
    for run in (server.strategy.run, "another"):
        again = ward(secure, cohort.sites[:3], folders, contexts=True)
        again.strategy.run = run
        three = again.strategy.round(again.grid, 1, start)
        assert state_hash(three) == state_hash(start)
        reasons = [f.reason for f in again.strategy.failures if f.phase == "sum" and f.site != "everyone"]
        assert len(reasons) >= 3
        assert all("has answered for other participants with these numbers" in reason for reason in reasons)


@pytest.mark.parametrize("nudge", ["learning rate", "start", "seed of nothing"])
def test_nor_does_a_round_that_is_repeated_almost_the_same(secure, cohort, folders, nudge):
    """Weights that differ in the last places have another digest, and are the same weights all the same."""
    server = ward(secure, cohort.sites, folders)
    start = server.start()
    server.strategy.round(server.grid, 1, start)
    local = secure.local
    changed = secure.model_copy(update={"local": local.model_copy(update={"lr": local.lr * 1.001})})
    again = ward(changed if nudge == "learning rate" else secure, cohort.sites[:3], folders)
    again.strategy.run = "another"
    moved = start
    if nudge != "learning rate":
        by = 1e-6 if nudge == "start" else 0.0
        moved = {key: v + by if v.is_floating_point() else v for key, v in start.items()}
    three = again.strategy.round(again.grid, 1, moved)
    assert state_hash(three) == state_hash(moved)
    assert "other participants with these numbers" in again.strategy.failures[0].reason


def test_the_round_after_goes_on_with_fewer(secure, cohort, folders):
    """A hospital that leaves between two rounds stops nothing: other weights may be summed without it."""
    server = ward(secure, cohort.sites, folders)
    state = server.strategy.round(server.grid, 1, server.start())
    fewer = ward(secure, cohort.sites[:3], folders)
    fewer.strategy.run = server.strategy.run
    assert state_hash(fewer.strategy.round(fewer.grid, 2, state)) != state_hash(state)
    assert fewer.strategy.failures == []


def test_a_resumed_round_takes_the_sum_that_is_there(secure, cohort, folders, tmp_path):
    """The server dies between the sum and the end of round 1. It goes on without asking for it again, with a
    hospital less, and with the bits that it would have had."""
    whole = ward(secure, cohort.sites)
    expected = whole.strategy.round(whole.grid, 1, whole.start())
    journal = RoundJournal(tmp_path / "rounds")
    server = ward(secure, cohort.sites, folders)

    def dies(*anything):
        raise KeyboardInterrupt

    server.strategy.configure_evaluate = dies
    with pytest.raises(KeyboardInterrupt):
        server.rounds(server.start(), journal)
    again = ward(secure.model_copy(update={"rounds": 1}), cohort.sites[:3], folders)
    found = again.rounds(again.start(), journal)
    assert "train.secure" not in again.grid.kinds()
    assert state_hash(found) == state_hash(expected)
    assert again.strategy.run == server.strategy.run
    assert [row["site"] for row in rows(again, "train")] == ["everyone"]
    assert not list((tmp_path / "rounds").glob("*-sum.*"))


def test_a_damaged_sum_is_asked_for_again(secure, cohort, tmp_path):
    journal = RoundJournal(tmp_path)
    journal.write_sum(1, ["a"], np.arange(3, dtype=np.uint64))
    path = tmp_path / "0001-sum.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert journal.read_sum(1) is None
    assert journal.damaged
    assert journal.run() == RoundJournal(tmp_path).run()


def test_a_damaged_ledger_gives_nothing(secure, cohort, folders):
    server = ward(secure, cohort.sites, folders)
    start = server.start()
    server.strategy.round(server.grid, 1, start)
    path = folders["alpha"] / "records" / "secure-sums.jsonl"
    path.write_text(path.read_text().replace('"delta"', '"omega"'))
    again = ward(secure, cohort.sites, folders)
    again.strategy.round(again.grid, 1, start)
    assert again.strategy.failures[0].site == "alpha"
    assert "is not what was written there" in again.strategy.failures[0].reason


# What a hospital asks for


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
