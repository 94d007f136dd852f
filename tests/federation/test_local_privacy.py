"""Local privacy: what leaves a hospital is clipped and noised there, once a request, and counted there."""

import json
import math
import os
from threading import Thread

import pytest
import torch
from facts import refused

from fedmerge.federation.hospital import hospital
from fedmerge.federation.hospital import private_training as local
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.private_training import Demand, LocalNoise, local_update
from fedmerge.federation.messages.jobs import TrainJob
from fedmerge.federation.privacy.accounting import epsilon
from fedmerge.federation.privacy.noise import norm
from fedmerge.models import state_hash
from fedmerge.models.weights import write_weights
from tests.federation.local_noise import LOCAL, OPTIONS


def silence(count):
    """No noise."""
    return torch.zeros(count, dtype=torch.float64)


def weights(*values):
    """Floats and a counter."""
    return {"w": torch.tensor(values, dtype=torch.float64), "n": torch.tensor(3)}


def job(round=1, **more):
    """A training job."""
    told = {
        "model": {"name": "small-cnn", "in_channels": 1, "n_classes": 3, "image_size": 8},
        "normalisation": {"mean": [0.5], "std": [0.5]},
        "seed": 0,
        "training": {"lr": 0.1},
        "round": round,
        "purpose": "round",
        "span": [0.0, 1.0],
        "privacy": LOCAL,
    }
    return TrainJob.model_validate_json(json.dumps(told | more))


@pytest.mark.parametrize(
    ("update", "left"),
    [
        ((0.3, 0.0), (0.3, 0.0)),
        ((3.0, 4.0), (0.3, 0.4)),
        ((math.nan, 1.0), (0.0, 0.0)),
        ((math.inf, 1.0), (0.0, 0.0)),
        ((-1e300, 0.0), (-0.5, 0.0)),
    ],
)
def test_an_update_leaves_clipped(update, left):
    start = weights(1.0, 2.0)
    trained = weights(1.0 + update[0], 2.0 + update[1]) | {"n": torch.tensor(99)}
    found = local_update(start, trained, OPTIONS, silence)
    torch.testing.assert_close(found["w"] - start["w"], torch.tensor(left, dtype=torch.float64))
    assert found["n"] == 3  # a counter of batches would tell the number of images


def test_any_two_updates_are_at_most_twice_the_clip_apart():
    start = weights(0.0, 0.0)
    ends = [local_update(start, weights(*u), OPTIONS, silence) for u in ((9.0, 9.0), (-9.0, -9.0))]
    assert norm([ends[0]["w"] - ends[1]["w"]]) == pytest.approx(2 * OPTIONS.clip, rel=1e-6)
    assert OPTIONS.multiplier == OPTIONS.noise * OPTIONS.clip / (2 * OPTIONS.clip)


def test_the_noise_is_that_of_the_options_and_new_for_each_question():
    start = {"w": torch.zeros(100_000, dtype=torch.float64)}
    noise = [LocalNoise("north").reply(OPTIONS, job(), start, start)["w"] for _ in range(2)]
    assert all(float(each.std()) == pytest.approx(2.0, rel=0.016) for each in noise)  # seven deviations
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 7 / math.sqrt(100_000)


@pytest.mark.parametrize("kept", ["in the folder", "in a context", "in the process"])
def test_a_request_that_is_asked_again_gets_the_same_bits(tmp_path, kept):
    """Across restarts, whatever attempt it is, and even if training were to end elsewhere."""
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    folder = tmp_path if kept == "in the folder" else None
    north = LocalNoise("north", folder)

    def restarted():
        if kept == "in the process":
            return north
        other = LocalNoise("north", folder)
        if kept == "in a context":
            other.load_state_dict(north.state_dict())
        return other

    first = north.reply(OPTIONS, job(), start, trained)
    for more in ({}, {"faults": [{"kind": "crash"}]}, {"since": 1}):
        again = restarted().reply(OPTIONS, job(**more), start, weights(5.0, 5.0))
        assert state_hash(again) == state_hash(first)
    for other, sent in ((job(2), start), (job(), weights(0.0, 1e-3)), (job(seed=1), start)):
        assert state_hash(restarted().reply(OPTIONS, other, sent, trained)) != state_hash(first)


def test_a_hospital_counts_what_left_it_once(tmp_path):
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    for round in (1, 1, 2, 2, 1):
        LocalNoise("north", tmp_path).reply(OPTIONS, job(round), start, trained)
    north = LocalNoise("north", tmp_path)
    assert north.spent() == pytest.approx(epsilon(OPTIONS, 2))
    for path in (tmp_path / "records" / "local-replies").iterdir():
        path.unlink()  # its answers are lost: what it draws now is more
    north.reply(OPTIONS, job(2), start, trained)
    assert north.spent() == pytest.approx(epsilon(OPTIONS, 3))


def test_an_answer_is_kept_and_counted_before_it_leaves(tmp_path, monkeypatch):
    """A node that dies between the two has drawn once, and answers with that."""
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    drawn = []

    def died(self, *args):
        drawn.append(self._kept(args[0]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalNoise, "_count", died)
        with pytest.raises(KeyboardInterrupt):
            LocalNoise("north", tmp_path).reply(OPTIONS, job(), start, trained)
    again = LocalNoise("north", tmp_path).reply(OPTIONS, job(), start, trained)
    assert state_hash(again) == state_hash(drawn[0])
    assert LocalNoise("north", tmp_path).spent() == pytest.approx(epsilon(OPTIONS, 1))


def test_a_hospital_that_has_spent_its_epsilon_takes_no_further_part(tmp_path):
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    north = LocalNoise("north", tmp_path, Demand(epsilon=epsilon(OPTIONS, 2) + 1e-6))
    replies = [north.reply(OPTIONS, job(round), start, trained) for round in (1, 2)]
    with refused("further", "part"):
        north.reply(OPTIONS, job(3), start, trained)
    assert state_hash(north.reply(OPTIONS, job(2), start, trained)) == state_hash(replies[1])


@pytest.mark.parametrize(
    ("demand", "privacy", "sentence"),
    [
        (Demand(required=True), None, ("update", "without", "noise")),
        (Demand(noise=5.0), LOCAL, ("5", "times", "4")),
        (Demand(noise=1.0), LOCAL | {"simulate": True}, ("demands", "noise", "nobody")),
        (Demand(required=True), LOCAL | {"simulate": True}, ("demands", "noise", "nobody")),
    ],
)
def test_a_hospital_that_demands_more_does_not_train(demand, privacy, sentence, cohort, monkeypatch):
    """Its own demand comes before the job, and before any training."""
    alpha = Hospital(cohort.training[0])
    alpha.local.demand = demand
    monkeypatch.setattr(hospital, "fit", None)
    monkeypatch.setattr(hospital, "read_job", lambda message, kind: job(privacy=privacy))
    with refused(*sentence):
        alpha.train(None)


def test_the_demand_is_that_of_the_node_s_policy(tmp_path):
    (tmp_path / "policy.yaml").write_text("local_noise: {clip: 0.4, noise: 4.0}")
    north = LocalNoise("north", tmp_path)
    with refused("0.4", "asks", "0.5"):
        north.options(job())
    assert north.options(job(privacy=LOCAL | {"clip": 0.4})).clip == 0.4
    with refused("update", "without", "noise"):
        north.options(job(privacy=None))
    assert LocalNoise("north").options(job(privacy=None)) is None


def test_a_clock_set_back_keeps_the_newest_answers_all_the_same(tmp_path, monkeypatch):
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    north, made = LocalNoise("north", tmp_path), write_weights

    def in_the_past(path, state):
        found = made(path, state)
        os.utime(path, (1.0, 1.0))
        return found

    for round in (1, 2):
        north.reply(OPTIONS, job(round), start, trained)
    monkeypatch.setattr(local, "write_weights", in_the_past)
    third, fourth = (north.reply(OPTIONS, job(round), start, trained) for round in (3, 4))
    for round, known in ((3, third), (4, fourth)):
        assert state_hash(north.reply(OPTIONS, job(round), start, trained)) == state_hash(known)
    assert north.spent() == pytest.approx(epsilon(OPTIONS, 4))


def test_two_processes_that_answer_at_once_spend_no_more_than_one_may(tmp_path, monkeypatch):
    """The second looks once the first has written: here it comes when the first has just drawn."""
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    first, second = (LocalNoise("north", tmp_path, Demand(epsilon=epsilon(OPTIONS, 1) + 1e-6)) for _ in "ab")
    stopped = []

    def drawn(*args):
        def other():
            with refused("further", "part"):
                second.reply(OPTIONS, job(2), start, trained)
            stopped.append(True)

        monkeypatch.setattr(local, "local_update", local_update)
        thread = Thread(target=other)
        threads.append(thread)
        thread.start()
        return local_update(*args)

    threads = []
    monkeypatch.setattr(local, "local_update", drawn)
    first.reply(OPTIONS, job(1), start, trained)
    threads[0].join()
    assert stopped == [True]


def test_what_the_policy_lets_all_answers_cost_is_counted_at_the_hospital_s_own_delta(tmp_path):
    """A server that names a delta near 1 in its job would have any noise cost nothing."""
    most = epsilon(OPTIONS, 2) + 1e-6
    (tmp_path / "policy.yaml").write_text(f"local_noise: {{clip: 0.5, noise: 4.0, epsilon: {most}}}")
    start, trained = weights(0.0, 0.0), weights(1.0, 2.0)
    generous = OPTIONS.model_copy(update={"delta": 0.999})
    assert epsilon(generous, 3) < most
    for round in (1, 2):
        LocalNoise("north", tmp_path).reply(generous, job(round), start, trained)
    with refused("delta", "1e-05", "further"):
        LocalNoise("north", tmp_path).reply(generous, job(3), start, trained)


def test_a_personal_part_does_not_leave_beside_the_noise():
    with refused("set", "federation.personal", "none"):
        LocalNoise("north").options(job(personal="head"))
