"""Private rounds in a federation: nothing is released twice, and spending is the server's own count."""

import json

import pytest
import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.messages.reading import METRICS, job_of
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.privacy import central
from fedmerge.federation.privacy import round as private_round
from fedmerge.federation.privacy.accounting import Spending, epsilon
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import state_hash
from tests.federation.private_wire import ADAPTIVE, CENTRAL, Wire, _raise_if, private, serve, spent
from tests.interrupted import Died


def die(monkeypatch, where, wire, round=2):
    """Have the server die in a round, at one of the moments around its release."""
    calls = {"n": 0}

    def before(owner, name, number=None):
        real = getattr(owner, name)

        def dying(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == (number or round):
                raise Died
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, dying)

    if where == "noise is drawn, nothing is written":
        before(RoundJournal, "release")
    elif where == "the model is written, its spending is not":
        before(Spending, "released")
    elif where == "spending is written, nothing left":
        wire.dies = lambda message: _raise_if(message, "evaluate", round)
    elif where == "one hospital has seen it":
        count = {"n": 0}

        def second(message):
            if message.metadata.group_id == f"validate {round}":
                count["n"] += 1
                if count["n"] == 2:
                    raise Died

        wire.dies = second
    elif where == "all have scored it, the journal has no round":
        before(RoundJournal, "write")
    else:
        assert where == "the round is finished"
        wire.dies = lambda message: _raise_if(message, "train", round + 1)


MOMENTS = (
    "noise is drawn, nothing is written",
    "the model is written, its spending is not",
    "spending is written, nothing left",
    "one hospital has seen it",
    "all have scored it, the journal has no round",
    "the round is finished",
)


@pytest.mark.parametrize("privacy", [CENTRAL, ADAPTIVE], ids=["central", "adaptive"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_dies_anywhere_shows_one_model_a_round(
    plan, cohort, tmp_path, monkeypatch, moment, privacy
):
    """And counts each once. Where the first draw is lost before anybody saw it, another takes its place."""
    changed, wire = private(plan, privacy), Wire(cohort.training)
    with monkeypatch.context() as patch:
        die(patch, moment, wire)
        assert serve(changed, wire, RoundJournal(tmp_path)) is None
    wire.dies = lambda message: None
    before = {number: set(models) for number, models in wire.seen.items()}
    state, history, strategy = serve(changed, wire, RoundJournal(tmp_path))
    assert {number: len(models) for number, models in wire.seen.items()} == {1: 1, 2: 1, 3: 1}
    assert all(before[number] <= wire.seen[number] for number in before)
    for round in (2, 3):  # the next round trains what was shown, and nothing else
        assert {model for number, model in wire.sent if number == round} == wire.seen[round - 1]
    assert wire.seen[3] == {state_hash(state)}
    names = [site.name for site in cohort.training]
    for round in (1, 2, 3):
        assert spent(history, round) == dict.fromkeys(names, round)
    for phase in ("train", "validate"):
        rows = [(row["round"], row["site"]) for row in history if row["phase"] == phase]
        assert rows == [(round, name) for round in (1, 2, 3) for name in names]
    log = [json.loads(line) for line in (tmp_path / "releases.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in log] == [1, 2, 3]
    if privacy is ADAPTIVE:
        clips = [row["clip"] for row in history if row["phase"] == "aggregate" and row["site"] == names[0]]
        assert len(set(clips)) == 3
        assert clips[0] == 0.5
        assert strategy.private.clip not in clips


def test_a_release_that_was_lost_counts_although_its_round_is_done_again(plan, cohort, tmp_path):
    """Both files of round 3 are damaged after it was shown: a second model is shown, and told of."""
    changed, wire = private(plan, CENTRAL), Wire(cohort.training)
    serve(changed, wire, RoundJournal(tmp_path))
    path = tmp_path / "0003-global.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    journal = RoundJournal(tmp_path)
    _, history, _ = serve(changed, wire, journal)
    assert len(wire.seen[3]) == 2
    assert set(spent(history).values()) == {4}
    assert any("done again, and counts twice for privacy" in sentence for sentence in journal.damaged)
    expected = epsilon(CentralPrivacy(**CENTRAL), 4)
    assert {row["epsilon"] for row in history if row["round"] == 3 and "epsilon" in row} == {expected}


def test_a_round_whose_last_page_is_damaged_is_shown_again_and_not_drawn(plan, cohort, tmp_path):
    changed, wire = private(plan, CENTRAL), Wire(cohort.training)
    serve(changed, wire, RoundJournal(tmp_path))
    (tmp_path / "0003.json").write_text("{}")
    _, history, _ = serve(changed, wire, RoundJournal(tmp_path))
    assert {number: len(models) for number, models in wire.seen.items()} == {1: 1, 2: 1, 3: 1}
    assert set(spent(history).values()) == {3}


@pytest.mark.parametrize("harm", ["gone", "shortened", "changed"])
def test_without_the_record_of_releases_nothing_goes_on(plan, cohort, tmp_path, harm):
    changed, wire = private(plan, CENTRAL), Wire(cohort.training)
    serve(changed, wire, RoundJournal(tmp_path))
    path = tmp_path / "releases.jsonl"
    text = path.read_text()
    if harm == "gone":
        path.unlink()
    elif harm == "shortened":
        path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    else:
        path.write_text(text.replace('"round": 2', '"round": 9'))
    with pytest.raises(FedMergeError, match=r"releases\.jsonl"):
        serve(changed, wire, RoundJournal(tmp_path))


HOSTILE = [
    {"phase": 1},
    {"site": 1.0, "round": 7},
    {"releases": 0, "epsilon": 0.0},
    {"num-examples": -5},
    {"accuracy": float("nan")},
]


@pytest.mark.parametrize("metrics", HOSTILE, ids=lambda each: "+".join(each))
def test_no_metric_takes_a_hospital_out_of_the_spending(plan, cohort, tmp_path, metrics):
    """Whatever it says of itself, it was asked, and its answer used or refused: that counts. Resumed, too."""
    changed = private(plan, CENTRAL)
    wire = Wire(cohort.training)
    nodes = sorted(wire.get_node_ids())

    def spoil(message, reply):
        if message.metadata.message_type == "train" and reply.metadata.src_node_id == nodes[0]:
            reply.content.metric_records[METRICS].update(metrics)

    wire.spoil = spoil
    wire.dies = lambda message: _raise_if(message, "train", 3)
    assert serve(changed, wire, RoundJournal(tmp_path)) is None
    wire.dies = lambda message: None
    _, history, _ = serve(changed, wire, RoundJournal(tmp_path))
    assert spent(history) == {site.name: 3 for site in cohort.training}


def test_a_hospital_that_fails_is_counted_and_the_others_count_for_no_more(plan, cohort, monkeypatch):
    """Beta's weights of round 1 are NaN and refused: it was asked, so that is spent, and divided by three."""
    changed = private(plan, CENTRAL).model_copy(update={"rounds": 2})
    wire, asked = Wire(cohort.training), []
    nodes = sorted(wire.get_node_ids())

    def spoil(message, reply):
        beta = reply.metadata.src_node_id == nodes[1]
        if message.metadata.message_type == "train" and beta and job_of(message)["round"] == 1:
            state = borrow(reply.content["arrays"])
            key = next(key for key in state if state[key].dim())
            reply.content["arrays"] = lend(state | {key: torch.full_like(state[key], float("nan"))})

    def watched(start, states, options, number, clip, draw):
        kept = list(states)
        asked.append((number, len(kept)))
        return central.private_mean(start, kept, options, number, clip, draw)

    wire.spoil = spoil
    monkeypatch.setattr(private_round, "private_mean", watched)
    _, history, strategy = serve(changed, wire)
    assert [failure.kind for failure in strategy.failures] == ["refused"]
    assert asked == [(3, 2), (3, 3)]
    assert spent(history, 2) == {site.name: 2 for site in cohort.training}
