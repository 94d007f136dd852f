"""A server may be hostile, too: a hospital takes a job as it is declared, or refuses it before any work."""

import json
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from benchmarks.simulations.hostile_changes import Big, array, force, saved
from benchmarks.simulations.hostile_messages import plan_of, sites
from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.plan.train_config import common_config, train_config
from fedmerge.federation.simulated import contexts
from fedmerge.models import build

PLAN = plan_of()
STATE = build(PLAN.model, 0).state_dict()
TRAIN, COMMON = train_config(PLAN, 1, "round", PLAN.local), common_config(PLAN)
SESSION = "0" * 64
BEGIN = COMMON | {"session": SESSION, "parents": ["alpha"], "images": {"alpha": 16}, "split": "train"}


@pytest.fixture
def ask():
    """Put a job to a hospital; returns the reply."""
    LocalGrid(lambda message, context: message, 0)  # names this process as the server
    hospital = Hospital(sites()[0])
    app, context = client_app(lambda context: hospital), contexts(1)[1001]

    def answer(kind, job, state=None):
        message = request_message(kind, 1001, "1", job, state)
        message.metadata.__dict__.update({"_message_id": "m1", "_src_node_id": 1})
        return app(message, context)

    return answer


def within(job, path, value):
    """A copy of a job with another value at a dotted path."""
    made = json.loads(json.dumps(job))
    *way, last = path.split(".")
    at = made
    for part in way:
        at = at[part]
    at[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("round", -1),
        ("round", 10**9),
        ("round", 1.0),
        ("round", True),
        ("round", "1"),
        ("purpose", "calibrate"),
        ("span", [0.5, 0.5]),
        ("span", [0, 2]),
        ("span", [0]),
        ("span", "01"),
        ("start", "anywhere"),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.5),
        ("faults", [{"kind": "rm -rf"}]),
        ("faults", [{"kind": "slow"}] * 1000),
        ("personal", "everything"),
        ("training.lr", float("nan")),
        ("training.lr", float("inf")),
        ("training.lr", -1.0),
        ("training.lr", "0.1"),
        ("training.epochs", 10**9),
        ("training.epochs", 0),
        ("training.batch_size", 10**12),
        ("training.augment", ["exec"]),
        ("training.optimizer", "lbfgs"),
        ("training.unknown", 1),
        ("training.inmerge", {"alpha": 2.0}),
        ("normalisation", {"mean": [0.5], "std": [0.0]}),
        ("normalisation", {"mean": [], "std": []}),
        ("normalisation.mean", [float("nan")]),
        ("model.name", "nothing"),
        ("model.name", "torchvision:../x"),
        ("model.image_size", 10**6),
        ("model.in_channels", 10**6),
        ("model.n_classes", 10**9),
        ("model.options", {"width": 10**12}),
        ("model.options", {"width": 10**6}),
        ("model.options", {"width": -1}),
        ("model.options", {"hidden": 1}),
        ("model.options", [1]),
        ("model.unknown", 1),
        ("command", "ls"),
    ],
)
def test_a_training_job_is_refused_in_a_sentence_and_at_once(ask, path, value):
    began = time.process_time()
    reply_message = ask("train", within(TRAIN, path, value), STATE)
    assert reply_message.has_error()
    assert reply_message.error.reason
    assert "Traceback" not in reply_message.error.reason
    assert time.process_time() - began < 5  # seconds of work, not of waiting


@pytest.mark.parametrize(
    ("name", "options"),
    [("tiny-vit", {"depth": 10**9}), ("tiny-vit", {"dim": 2**40, "heads": 2}), ("vgg19", {"width": 10**9})],
)
def test_a_network_too_large_is_refused_before_it_is_built(ask, name, options):
    model = COMMON["model"] | {"name": name, "options": options}
    assert ask("train", TRAIN | {"model": model}, STATE).has_error()
    assert ask("evaluate", COMMON | {"model": model}, STATE).has_error()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("session", "../../etc"),
        ("session", "0" * 63),
        ("parents", []),
        ("parents", ["a"] * 200_000),
        ("images", {"beta": 16}),
        ("images", {"alpha": 0}),
        ("images", {"../x": 16}),
        ("split", "test"),
        ("model.image_size", 10**6),
        ("model.n_classes", 4),
    ],
)
def test_a_fusion_s_beginning_is_refused_in_a_sentence(ask, path, value):
    parents = {f"0/{key}": entry for key, entry in STATE.items()}
    assert ask("query.sums_begin", within(BEGIN, path, value), parents).has_error()


def test_requests_about_sums_name_what_is_there(ask):
    parents = {f"0/{key}": entry for key, entry in STATE.items()}
    assert not ask("query.sums_begin", BEGIN, parents).has_error()

    def refused(request, state=None, **options):
        reply_message = ask("query.sums", {"session": SESSION, "kind": request, "options": options}, state)
        return reply_message.error.reason if reply_message.has_error() else ""

    assert "no layer 'x'" in refused("outer", layers=["x"])
    assert "after a walk" in refused("layer", name="head")
    assert "3 batch norms" in refused("norm-moments", index=3)
    assert refused("everything")
    assert refused("moments", images=1)
    assert refused("importance", kind="pixels")
    assert "unknown tensor" in refused("moments", STATE)
    assert "lacks the tensor" in refused("walk", {"head.weight": STATE["head.weight"]})
    assert not refused("walk", STATE)
    assert ".mix' is float64 of shape (3, 4)" in refused("layer", {".mix": np_zeros(3, 4)}, name="head")
    assert not refused("layer", {".mix": np_zeros(3, 3)}, name="head")


def np_zeros(*shape):
    import torch

    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_weights_are_read_only_where_they_fit(ask, kind):
    job = TRAIN if kind == "train" else COMMON
    record = ArrayRecord({key: Array(value.numpy()) for key, value in STATE.items()})
    weight = STATE["head.weight"].numpy()
    for wrong in (
        array(weight, Big(saved(weight))),
        array(weight, saved(weight)[:-1]),
        array(weight.astype(object)),
        array(np.zeros((10**4, 10**4), np.float16)),
    ):
        force(record, **{"head.weight": wrong})
        assert "tensor 'head.weight'" in ask(kind, job, record).error.reason
    assert "came without weights" in ask(kind, job).error.reason
    del record["head.weight"]
    assert "lacks the tensor" in ask(kind, job, record).error.reason


def test_what_needs_no_weights_takes_none(ask):
    for kind, job in (("query", {}), ("query.memory", {}), ("train", TRAIN | {"start": "own"})):
        assert "unknown tensor" in ask(kind, job, STATE).error.reason
