"""Private rounds in a federation: nothing is released twice, and spending is the server's own count."""

import json
from itertools import pairwise

import pytest
import torch
from flwr.app import Context, RecordDict

from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions, LocalGrid, client_app, server_app
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.hospital import private_training as local
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.messages.reading import METRICS, job_of
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.privacy import central, noise
from fedmerge.federation.privacy import round as private_round
from fedmerge.federation.privacy.accounting import Spending, epsilon
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import state_hash
from fedmerge.training import TrainingOptions

ROUNDS = 3
CENTRAL = {"clip": 0.5, "noise": 1.0}
ADAPTIVE = {"kind": "adaptive", "clip": 0.5, "noise": 1.0}
LOCAL = {"kind": "local", "clip": 0.5, "noise": 1.0}


class Died(BaseException):
    """The server's process ends here."""


def private(plan, privacy, **options):
    """The plan with a network that can be noised, three private rounds, and nothing after them."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    rules = FederationOptions.model_validate({"privacy": privacy} | options)
    return plan.model_copy(update={"model": model, "fine_tune": None, "rounds": ROUNDS, "federation": rules})


class Wire(LocalGrid):
    """Hospitals that outlive servers, and all that was ever sent to them or by them.

    seen: per round, the hashes of the models that hospitals were sent to score. sent: hashes of the weights
    in training messages. answered: (round, hospital, hash) of training answers. dies: called before each
    message.
    """

    def __init__(self, sites, spoil=None, folder=None):
        hospitals = [Hospital(site, folder=None if folder is None else folder / site.name) for site in sites]
        super().__init__(client_app(lambda c: hospitals[int(c.node_config["partition-id"])]), len(sites))
        self.hospitals = hospitals
        self.seen, self.sent, self.answered = {}, [], []
        self.spoil = spoil or (lambda message, reply: None)
        self.dies = lambda message: None

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            self.dies(message)
            kind = message.metadata.message_type
            if kind == "evaluate":
                number = int(message.metadata.group_id.split()[1])
                self.seen.setdefault(number, set()).add(state_hash(borrow(message.content["arrays"])))
            if kind == "train":
                self.sent.append((job_of(message)["round"], state_hash(borrow(message.content["arrays"]))))
            (reply,) = super().send_and_receive([message])
            if kind == "train" and not reply.has_error():
                where = job_of(message)["round"], reply.metadata.src_node_id
                self.answered.append((*where, state_hash(borrow(reply.content["arrays"]))))
            self.spoil(message, reply)
            replies.append(reply)
        return replies


def serve(plan, wire, journal=None):
    """The rounds of a server on the wire; what it found, or None where it died."""
    found = []

    def programme(server):
        state = server.rounds(server.start(), journal)
        found.append((state, server.strategy.history, server.strategy))

    try:
        server_app(plan, programme)(grid=wire, context=_context())
    except Died:
        return None
    return found[0]


def _context():
    return Context(1, 0, {}, RecordDict(), {})


def spent(history, round=ROUNDS):
    """Releases by hospital, as the rows of a round say."""
    rows = [row for row in history if (row["round"], row["phase"]) == (round, "aggregate")]
    return {row["site"]: row["releases"] for row in rows}


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


def _raise_if(message, kind, round):
    if message.metadata.message_type == kind and message.metadata.group_id.split()[-1] == str(round):
        raise Died


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


def test_two_runs_of_one_seed_have_different_noise_and_one_that_is_simulated_has_not(plan, cohort):
    changed = private(plan, CENTRAL)
    one, other = (serve(changed, Wire(cohort.training))[0] for _ in range(2))
    assert all((one[key] != other[key]).any() for key in one if one[key].is_floating_point())
    simulated = private(plan, CENTRAL | {"simulate": True})
    (same, history, _), (again, _, _) = (serve(simulated, Wire(cohort.training)) for _ in range(2))
    assert state_hash(same) == state_hash(again)
    assert not any("epsilon" in row or "releases" in row for row in history)


@pytest.mark.parametrize("privacy", [CENTRAL, ADAPTIVE, LOCAL], ids=["central", "adaptive", "local"])
def test_noise_is_in_no_file(plan, cohort, tmp_path, monkeypatch, privacy):
    """The bytes of every draw, scaled as they are used and as they are drawn, in three types."""
    drawn = []
    real = noise.from_the_system

    def watched(count):
        drawn.append(real(count))
        return drawn[-1].clone()

    for module in (private_round, noise):
        monkeypatch.setattr(module, "from_the_system", watched)
    monkeypatch.setattr(local.local_update, "__defaults__", (watched,))
    wire = Wire(cohort.training, folder=tmp_path / "nodes")
    serve(private(plan, privacy), wire, RoundJournal(tmp_path / "journal"))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(drawn) >= ROUNDS * 4
    assert any(path.suffix == ".safetensors" for path in files)
    for values in drawn:
        part = values[:2]
        for scale in (1.0, 0.5, 0.5 / 3, 2.0**24, 1 / 3):
            for kind in (torch.float64, torch.float32):
                needle = (part * scale).to(kind).numpy().tobytes()
                assert not any(needle in data for data in files.values())
        for step in (2.0**-25, 2.0**-26):
            needle = (part * 0.5 / step).round().to(torch.int64).numpy().tobytes()
            assert not any(needle in data for data in files.values())


def test_rounds_have_independent_noise(plan, cohort):
    """Hospitals that change nothing leave the noise alone: its steps in three rounds, compared in pairs."""
    still = TrainingOptions(lr=1e-12, batch_size=12)
    changed = private(plan, CENTRAL | {"noise": 10.0}).model_copy(update={"local": still})
    models = []
    wire = Wire(cohort.training)
    wire.dies = lambda message: (
        models.append(_flat(borrow(message.content["arrays"])))
        if message.metadata.message_type == "train"
        else None
    )
    state = serve(changed, wire)[0]
    models = [*models[:: len(cohort.training)], _flat(state)]
    steps = [after - before for before, after in pairwise(models)]
    assert len(steps) == ROUNDS
    n = len(steps[0])
    for i in range(ROUNDS):
        assert float(steps[i].std()) == pytest.approx(10 * 0.5 / 3, rel=7 / (2 * n) ** 0.5)
        for j in range(i):
            assert abs(float(torch.corrcoef(torch.stack([steps[i], steps[j]]))[0, 1])) < 7 / n**0.5


def _flat(state):
    return torch.cat([state[key].double().reshape(-1) for key in sorted(state) if state[key].dim()])
