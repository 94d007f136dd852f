"""Whatever comes, in either direction: it is taken, or refused in a sentence; nothing else is raised.

Drawn the same every time: 850 messages in all, and 2,600 where FEDMERGE_SLOW is set.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from functools import lru_cache

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulations.hostile_changes import force, header, saved
from benchmarks.simulations.hostile_messages import plan_of, sites
from fedmerge.errors import FedMergeError
from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.client_registry import Client
from fedmerge.federation.messages.client_state import client_state_tensors
from fedmerge.federation.messages.reading import read_job, read_reply
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.messages.tensors import Refused, Tensors
from fedmerge.federation.plan.train_config import common_config, train_config
from fedmerge.federation.server.failures import Wrong
from fedmerge.federation.server.requests import Reply, Request, no_tensors, read
from fedmerge.federation.simulated import contexts
from fedmerge.models import build

PLAN = plan_of()
MESSAGES_EACH = 60 if os.environ.get("FEDMERGE_SLOW") else 20  # to each kind of reply and of job
SPEC = PLAN.model
STATE = build(SPEC, 0).state_dict()
MEMBER = Client(1001, "alpha", 24, 6, (8, 8, 8))
SUMS = {"images": (), "0/head": (6,)}
TENSORS = {
    "query": no_tensors,
    "train": lambda member: Tensors.like(STATE),
    "query.memory": lambda member: client_state_tensors(SPEC, "norms"),
    "query.sums": lambda member: Tensors.of("float64", SUMS),
    "query.secure_masked": lambda member: Tensors.of("int64", {"numbers": (9,)}),
}

number = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from([0, 1, 24, 2**53, 2**63, 10**18, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, 3.5e38]),
)
word = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "alpha", "../x", "<b>", "=cmd", "round", "\ud800", "\x00", "x" * 5000]),
)
anything = st.recursive(
    st.one_of(number, word, st.none(), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)
names = st.one_of(
    word,
    st.sampled_from(
        sorted({f.alias or n for e in MESSAGES.values() for n, f in e.reply.model_fields.items()})
    ),
)
dtypes = st.sampled_from(["float32", "float64", "int64", "uint8", "bool", "object", "U3", "c8", "f2", ">f4"])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**40, True]), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    """An Array that may lie in every field."""
    x = np.zeros(draw(st.lists(st.integers(0, 4), max_size=3)), draw(dtypes))
    data = draw(st.sampled_from(["as it is", "other header", "cut", "random"]))
    blob = saved(x)
    if data == "other header":
        fields = {"descr": draw(anything), "fortran_order": draw(anything), "shape": draw(shapes)}
        blob = header(ascii(fields), b"\x00" * draw(st.integers(0, 64)))
    elif data == "cut":
        blob = blob[: draw(st.integers(0, len(blob)))]
    elif data == "random":
        blob = draw(st.binary(max_size=100))
    made = Array("float32", (), "numpy.ndarray", blob)
    made.__dict__["dtype"] = draw(st.one_of(st.just(str(x.dtype)), dtypes, word))
    made.__dict__["shape"] = draw(st.one_of(st.just(x.shape), shapes))
    made.__dict__["stype"] = draw(st.one_of(st.just("numpy.ndarray"), word))
    return made


keys = st.one_of(
    word, st.sampled_from([*list(STATE)[:3], "round", "now/head.bias", "images", "0/head", "numbers"])
)


@st.composite
def records(draw, kind, value):
    made = kind()
    force(made, **draw(st.dictionaries(keys if kind is ArrayRecord else names, value, max_size=3)))
    return made


@st.composite
def contents(draw):
    found = RecordDict()
    kinds = {"metrics": MetricRecord, "texts": ConfigRecord, "arrays": ArrayRecord, "config": ConfigRecord}
    for name in draw(st.lists(st.one_of(st.sampled_from(list(kinds)), word), max_size=4, unique=True)):
        usual = st.just(kinds.get(name, MetricRecord))
        kind = draw(st.one_of(usual, usual, st.sampled_from([MetricRecord, ConfigRecord, ArrayRecord])))
        force(found, **{name: draw(records(kind, arrays() if kind is ArrayRecord else anything))})
    return found


HONEST = {
    "query": {"num-examples": 24, "num-validation": 6, "class-counts": [8, 8, 8]},
    "train": {"num-examples": 24, "loss": 1.0, "accuracy": 0.5, "seconds": 0.1, "steps": 2, "merges": 0},
    "evaluate": {"num-examples": 6, "loss": 1.0, "accuracy": 0.5, "balanced_accuracy": 0.5},
    "query.memory": {"round": 1},
    "query.restore": {"round": 1},
    "query.sums_begin": {"known": 1, "images": 16},
    "query.sums": {"known": 1},
    "query.secure_masked": {},
    "query.secure_sums_begin": {"known": 1},
    "query.secure_sums": {"known": 1},
}


KEY, SIGNATURE = "0" * 64, "0" * 128
ADVERT = {
    "label": "1",
    "name": "alpha",
    "identity": "ecdsa",
    "masking": KEY,
    "sharing": KEY,
    "signature": SIGNATURE,
}
WORDS = {
    "query": {"name": "alpha"},
    "train.secure": ADVERT,
    "evaluate.secure": ADVERT,
    "query.secure_sums": ADVERT,
    "query.secure_shares": {"shares": '{"beta": "00"}', "commitment": KEY},
    "query.secure_confirm": {"signature": SIGNATURE},
    "query.secure_unmask": {"own": "{}", "pair": f'{{"beta": "{KEY}"}}'},
}


@lru_cache(maxsize=1)
def asked() -> Message:
    LocalGrid(lambda message, context: message, 0)  # names this process as the server
    message = request_message("query", 1001, "", {}, None)
    message.metadata.__dict__["_message_id"] = "m1"
    return message


@pytest.mark.parametrize("kind", sorted(MESSAGES))
@pytest.mark.drawn
@settings(max_examples=MESSAGES_EACH, derandomize=True, database=None)
@given(content=contents(), change=st.dictionaries(names, anything, max_size=2), honest=st.booleans())
def test_an_answer_is_read_or_refused(kind, content, change, honest):
    """Half of the answers are honest ones with a few values changed."""
    if honest:
        force(content, metrics=MetricRecord(HONEST.get(kind, {})), texts=ConfigRecord(WORDS.get(kind, {})))
        force(content["metrics"], **change)
    reply_message = Message(content, reply_to=asked())
    question = Request(kind, 1, "fuzz", (MEMBER,), None, TENSORS.get(kind, no_tensors))
    with suppress(Refused):
        _, record = read_reply(reply_message, MESSAGES[kind].reply)
        question.tensors(MEMBER).read(record)
    found = read(question, MEMBER, reply_message)
    assert isinstance(found, Reply) or (isinstance(found, Wrong) and found.kind == "refused")
    assert isinstance(found, Wrong) or found.metrics.keys() <= {
        field.alias or name for name, field in MESSAGES[kind].reply.model_fields.items()
    }


COMMON = common_config(PLAN)
TRAIN = train_config(PLAN, 1, "round", PLAN.local)
SESSION = {"session": "0" * 64}
BEGIN = COMMON | SESSION | {"parents": ["alpha", "beta"], "images": {"alpha": 16}, "split": "train"}
JOBS = {
    "query": {},
    "train": TRAIN | {"control": True, "since": 0},
    "evaluate": COMMON,
    "query.memory": {},
    "query.restore": COMMON | {"personal": "norms"},
    "query.sums_begin": BEGIN,
    "query.sums": SESSION | {"kind": "moments", "options": {}},
    "train.secure": TRAIN | {"label": "1", "batch_norm": "mixture"},
    "evaluate.secure": COMMON | {"label": "1"},
    "query.secure_sums_begin": BEGIN,
    "query.secure_sums": SESSION | {"kind": "moments", "options": {}, "label": "1"},
    "query.secure_shares": {"label": "1", "adverts": [ADVERT]},
    "query.secure_masked": {"label": "1", "parties": ["alpha"], "shares": {"alpha": "0" * 160}},
    "query.secure_confirm": {"label": "1", "survivors": ["alpha"]},
    "query.secure_unmask": {"label": "1", "survivors": ["alpha"], "confirmed": {"alpha": SIGNATURE}},
}
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), word.map(lambda w: w.replace("\ud800", "?"))
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def jobs(draw, job):
    """An honest job with a few fields changed, taken out or added, at any depth."""
    made = json.loads(json.dumps(job))
    for _ in range(draw(st.integers(0, 3))):
        at = made
        while True:
            key = draw(st.one_of(st.sampled_from(sorted(at) or ["x"]), st.text(max_size=8)))
            if not isinstance(at.get(key), dict) or draw(st.booleans()):
                break
            at = at[key]
        if draw(st.integers(0, 3)) == 0:
            at.pop(key, None)
        else:
            at[key] = draw(JSON)
    return made


@lru_cache(maxsize=1)
def hospital():
    """One whose training is not done: what is tried is what it takes."""
    made = Hospital(sites()[0])
    return client_app(lambda context: made), contexts(1)[1001], made


@pytest.mark.parametrize("kind", sorted(JOBS))
@pytest.mark.drawn
@settings(max_examples=MESSAGES_EACH, derandomize=True, database=None)
@given(data=st.data())
def test_a_job_is_done_or_refused(kind, data, monkeypatch_module):
    app, context, _ = hospital()
    asked()
    message = request_message(kind, 1001, "1", data.draw(jobs(JOBS[kind])), None)
    usual = STATE if kind.partition(".")[0] in ("train", "evaluate") else None
    if data.draw(st.integers(0, 3)) == 0:
        content = data.draw(contents())
        message.content.__dict__["_data"].update(content.__dict__["_data"])
    elif usual is not None:
        message = request_message(kind, 1001, "1", json.loads(message.content["config"]["job"]), usual)
    message.metadata.__dict__["_message_id"] = "m1"
    message.metadata.__dict__["_src_node_id"] = 1
    with suppress(FedMergeError):
        read_job(message, MESSAGES[kind].job)
    reply_message = app(message, context)
    if reply_message.has_error():
        assert reply_message.error.reason
        assert not reply_message.error.reason.startswith("<class")


@pytest.fixture(scope="module", autouse=True)
def monkeypatch_module():
    """Nothing is trained: a thousand trainings would be a test of the training."""
    from types import SimpleNamespace

    from fedmerge.federation.hospital import hospital

    done = SimpleNamespace(losses=[1.0], accuracies=[0.5], seconds=0.0, steps=1, merges={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hospital, "fit", lambda *args, **options: done)
        yield


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nul",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"round": 1, "round": 2}',
        '{"seed": ' + "9" * 10_000 + "}",
        '{"seed": NaN}',
        '{"x": "' + "y" * (5 * 2**20) + '"}',
        json.dumps({f"field {i}": i for i in range(100_000)}),
        "\ud800",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("kind", ["query", "train"])
def test_text_that_is_no_job_is_refused(kind, text):
    asked()
    message = request_message(kind, 1001, "1", {}, None)
    force(message.content["config"], job=text)
    with pytest.raises(Refused):
        read_job(message, MESSAGES[kind].job)
