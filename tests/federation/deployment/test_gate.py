"""The gate passes on what admitted hospitals ask for themselves, bit for bit, and nothing else."""

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest

from fedmerge.federation.deployment.callers import KNOWN, LATE
from fedmerge.federation.deployment.calls import CALLS

PULL = "/v1/fleet/pull-messages"
P384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def reply(node, src=None, dst=1, to="0", messages=1, trees=1):
    """push-messages of one node, whose message says what is given."""
    said = Metadata(
        run_id=5, src_node_id=node if src is None else src, dst_node_id=dst, reply_to_message_id=to
    )
    return PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=[Message(metadata=said)] * messages,
        message_object_trees=[ObjectTree(object_id="a")] * trees,
    )


def requests(hospital):
    """Every call of a hospital, as Flower makes it."""
    node = Node(node_id=hospital.node)
    return {
        "activate-node": ActivateNodeRequest(public_key=hospital.pem, heartbeat_interval=30),
        "deactivate-node": DeactivateNodeRequest(node_id=hospital.node),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=30),
        "pull-messages": PullMessagesRequest(node=node),
        "push-messages": reply(hospital.node),
        "get-run": GetRunRequest(node=node, run_id=5),
        "get-fab": GetFabRequest(node=node, run_id=5, hash_str="a"),
        "push-object": PushObjectRequest(node=node, run_id=5, object_id="a", object_content=b"c"),
        "pull-object": PullObjectRequest(node=node, run_id=5, object_id="a"),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=node, run_id=5, message_object_id="a"),
    }


def pull(hospital):
    return PullMessagesRequest(node=Node(node_id=hospital.node)).SerializeToString()


@pytest.mark.parametrize("call", CALLS)
def test_a_hospital_s_call_passes_with_its_headers_and_the_answer_comes_back(gate, call):
    body = requests(gate.known)[call].SerializeToString(deterministic=True)
    told = gate.ask(f"/v1/fleet/{call}", body, gate.known, headers={"cookie": "no", "flwr-package-name": "x"})
    (path, seen, headers) = gate.superlink.asked[-1]
    assert (told.status_code, told.content) == (207, body[::-1])
    assert (path, seen) == (f"/v1/fleet/{call}", body)
    assert told.headers["x-seen"] == headers["flwr-timestamp"]
    assert headers["flwr-package-name"] == "x"
    assert "cookie" not in headers


@pytest.mark.parametrize("call", CALLS)
def test_no_call_is_made_in_another_s_name(gate, call):
    body = requests(gate.other)[call].SerializeToString(deterministic=True)
    told = gate.ask(f"/v1/fleet/{call}", body, gate.known)
    assert told.status_code == (409 if call == "activate-node" else 400)
    assert not gate.superlink.asked


@pytest.mark.parametrize(
    "forged",
    [
        {"src": 11},  # an answer in another's name
        {"src": 1, "dst": 11, "to": ""},  # an instruction to another, as if the server gave it
        {"src": 1},
        {"dst": 11},
        {"to": ""},
        {"messages": 2},
        {"messages": 0},
        {"trees": 0},
        {"trees": 2},
    ],
)
def test_a_message_is_one_reply_of_the_sender_to_the_server(gate, forged):
    """Flower compares the node of the call with the key, and believes the message in it."""
    body = reply(gate.known.node, **forged).SerializeToString()
    told = gate.ask("/v1/fleet/push-messages", body, gate.known)
    assert told.status_code == 400
    assert not gate.superlink.asked


def test_who_has_no_admitted_key_or_signs_wrongly_is_refused_before_the_body(gate):
    known, now = gate.known, datetime.now(UTC)
    good = known.headers()
    names = list(good)
    cases = {
        "nothing": {},
        "foreign key": gate.stranger.headers(),
        "another's signature": good | {names[2]: gate.other.headers()[names[2]]},
        "another's key": good | {names[0]: gate.other.headers()[names[0]]},
        "another time": good | {names[1]: known.headers()[names[1]]},
        "late": known.headers(now - timedelta(seconds=LATE + 60)),
        "early": known.headers(now + timedelta(seconds=60)),
        "no zone": known.headers(now.replace(tzinfo=None)),
        "no time": good | {names[1]: "yesterday"},
        "no base64": good | {names[2]: "%%%"},
        "no signature": good | {names[2]: "AAAA"},
        "long": good | {names[0]: "A" * 4096},
    } | {f"without {name}": {k: v for k, v in good.items() if k != name} for name in names}
    for case, headers in cases.items():
        told = gate.ask(PULL, pull(known), headers=headers)
        assert (case, told.status_code) == (case, 401)
        with gate.wire() as wire:  # a body that never comes is not waited for
            head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
            wire.sendall(f"POST {PULL} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n{head}\r\n".encode())
            assert wire.recv(100).startswith(b"HTTP/1.1 401")
    assert not gate.superlink.asked
    assert "behind the server's clock" in gate.ask(PULL, headers=cases["late"]).text


def test_a_header_that_comes_twice_is_no_signature(gate):
    head = "".join(f"{k}: {v}\r\n{k}: {v}\r\n" for k, v in gate.known.headers().items())
    with gate.wire() as wire:
        wire.sendall(f"POST {PULL} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{head}\r\n".encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 401")


def test_a_signature_is_good_for_one_call_and_so_is_its_mirror(gate):
    """Of (r, s), which is a signature, (r, -s) is another one of the same time."""
    headers = gate.known.headers()
    name = "flwr-signature"
    r, s = decode_dss_signature(b64decode(headers[name]))
    mirror = headers | {name: b64encode(encode_dss_signature(r, P384 - s)).decode()}
    assert gate.ask(PULL, pull(gate.known), headers=headers).status_code == 207
    for again in (headers, mirror):
        told = gate.ask(PULL, pull(gate.known), headers=again)
        assert (told.status_code, "used before" in told.text) == (401, True)
    assert len(gate.superlink.asked) == 1


def test_what_was_signed_before_the_gate_began_is_to_be_signed_anew(gate):
    """What an earlier gate has seen, this one does not know; a node tries again after 503."""
    old = gate.known.headers(datetime.now(UTC) - timedelta(seconds=100))
    assert gate.ask(PULL, pull(gate.known), headers=old).status_code == 503


def test_a_revocation_bites_at_once_and_a_damaged_list_lets_nobody_in(gate):
    assert gate.ask(PULL, pull(gate.known), gate.known).status_code == 207
    gate.admit(gate.other)
    assert gate.ask(PULL, pull(gate.known), gate.known).status_code == 401
    assert gate.ask(PULL, pull(gate.other), gate.other).status_code == 207
    gate.folder.admitted.write_text("nodes: {11: {name: south, key: nonsense}}")
    assert gate.ask(PULL, pull(gate.other), gate.other).status_code == 503
    gate.folder.admitted.write_text("][")
    assert gate.ask(PULL, pull(gate.other), gate.other).status_code == 503
    gate.folder.admitted.unlink()
    assert gate.ask(PULL, pull(gate.other), gate.other).status_code == 401
    gate.admit(gate.known)
    assert gate.ask(PULL, pull(gate.known), gate.known).status_code == 207


def test_a_node_that_begins_is_told_why_in_flower_s_words(gate):
    body = requests(gate.stranger)["activate-node"].SerializeToString()
    told = gate.ask("/v1/fleet/activate-node", body, gate.stranger)
    assert told.status_code == 409  # neither 401, which ends a node without a word, nor one to be tried again
    assert "does not know this key" in json.loads(told.text)["detail"]


def test_a_hospital_can_ask_who_it_is(gate):
    assert gate.ask(KNOWN, hospital=gate.known).json() == {"name": "north", "node": gate.known.node}
    assert gate.ask(KNOWN, hospital=gate.stranger).status_code == 401
    assert not gate.superlink.asked


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/pull-messages?x=/../control",
        "//v1/control/start-run",
        "/docs",
        "/",
    ],
)
def test_nothing_else_reaches_the_superlink_with_a_good_key(gate, path):
    assert gate.ask(path, pull(gate.known), gate.known).status_code == 404
    assert not gate.superlink.asked


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_post_passes(gate, method):
    assert gate.ask(PULL, pull(gate.known), gate.known, method).status_code == 405
    assert not gate.superlink.asked


def test_a_fault_of_the_superlink_is_one_to_try_again_after(gate):
    """A SuperNode that is told 500 stops listening; after 503 it asks again."""
    gate.superlink.status = 500
    try:
        told = gate.ask(PULL, pull(gate.known), gate.known)
    finally:
        gate.superlink.status = 207
    assert told.status_code == 503
    assert "pull-messages" in told.text
    assert gate.ask(PULL, pull(gate.known), gate.known).status_code == 207


def test_a_superlink_that_is_down_is_said_to_be(gates):
    gate = gates()
    gate.gate.superlink.base_url = "https://127.0.0.1:1"
    told = gate.ask(PULL, pull(gate.known), gate.known)
    assert (told.status_code, told.text) == (502, "the SuperLink does not answer.")
