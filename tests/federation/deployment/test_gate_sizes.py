"""Pieces of weights pass as they come; what is too long, too much, or dressed up as another does not."""

import os
import random

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node

from fedmerge.federation.deployment.calls import HEAD, READ
from fedmerge.federation.deployment.limits import MIB

PUSH = "/v1/fleet/push-object"


def piece(hospital, size, session="s" * 36):
    return PushObjectRequest(
        node=Node(node_id=hospital.node), run_id=2**63, object_id="a" * 64, object_content=os.urandom(size),
        session_id=session,
    ).SerializeToString(deterministic=True)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 100, HEAD - 200, HEAD, 2 * HEAD, 65_536, 5 * MIB])
@pytest.mark.parametrize("session", ["", "s" * 36])
def test_a_piece_passes_bit_for_bit(gate, size, session):
    body = piece(gate.known, size, session)
    assert gate.ask(PUSH, body, gate.known).status_code == 207
    assert gate.superlink.asked[-1][1] == body


def field(number, content):
    """A field of protobuf with bytes in it."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_a_piece_in_another_s_name_does_not_arrive_however_it_is_written(gate):
    mine, his = (field(1, b"\x08" + Node(node_id=h.node).SerializeToString()[1:])
                 for h in (gate.known, gate.other))  # fmt: skip
    content = field(4, bytes(20_000))
    forged = {
        "plainly": piece(gate.other, 20_000),
        "again after the content": mine + field(3, b"a") + content + his,
        "again before it": mine + his + content,
        "after it alone": field(3, b"a") + content + his,
        "in a second content": mine + content + field(4, b"other"),
        "without a node": field(3, b"a") + content,
        "a length with zeros at its end": mine + b"\x22\xa0\x9c\x81\x00" + bytes(20_000),
        "a length of more than there is": mine + b"\x22\xff\xff\xff\x7f" + bytes(20_000),
        "a head that does not end": mine + field(3, b"a" * HEAD) + content,
        "much after the content": mine + content + field(5, b"s" * 2000),
        "groups": mine + b"\x23" * 20_000,
        "nothing that can be read": bytes(20_000),
    }
    for how, body in forged.items():
        told = gate.ask(PUSH, body, gate.known)
        assert (how, told.status_code) == (how, 400)
    assert not gate.superlink.asked


def test_what_is_written_at_random_is_refused_and_breaks_nothing(gate):
    draw = random.Random(3)
    good = piece(gate.known, 6000)
    for _ in range(60):
        body = bytearray(good)
        for _ in range(draw.randrange(1, 5)):
            body[draw.randrange(120)] = draw.randrange(256)
        told = gate.ask(PUSH, bytes(body), gate.known)
        assert told.status_code in (207, 400)
        if told.status_code == 207:
            assert PushObjectRequest.FromString(bytes(body)).node.node_id == gate.known.node
    assert not any("fault of the gate" in sentence for _, sentence in gate.gate.log.said)


def test_a_body_is_no_longer_than_allowed_and_that_is_known_before_it_comes(gates):
    gate = gates(max_body_mib=1)
    assert gate.ask(PUSH, piece(gate.known, MIB - 300), gate.known).status_code == 207
    for path, length in ((PUSH, MIB + 1), ("/v1/fleet/push-messages", READ + 1), (PUSH, 10**15)):
        head = "".join(f"{k}: {v}\r\n" for k, v in gate.known.headers().items())
        with gate.wire() as wire:
            wire.sendall(
                f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{head}\r\n".encode()
            )
            assert wire.recv(100).startswith(b"HTTP/1.1 413")
    assert len(gate.superlink.asked) == 1


@pytest.mark.parametrize(
    "lines",
    [
        "transfer-encoding: chunked",
        "content-encoding: gzip\r\ncontent-length: 5",
        "x: y",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: -1",
    ],
)
def test_a_call_says_its_length_once_and_is_not_packed(gate, lines):
    head = "".join(f"{k}: {v}\r\n" for k, v in gate.known.headers().items())
    with gate.wire() as wire:
        wire.sendall(f"POST {PUSH} HTTP/1.1\r\nhost: x\r\n{lines}\r\n{head}\r\n0\r\n\r\n".encode())
        assert wire.recv(100)[:12] in (b"HTTP/1.1 411", b"HTTP/1.1 400")
    assert not gate.superlink.asked


def test_all_pieces_of_a_reply_are_no_more_than_allowed(gates):
    """The next reply, once the SuperLink has taken it, has room for as much again."""
    gate = gates(max_reply_mib=1)
    body = piece(gate.known, MIB // 2 - 300)
    assert [gate.ask(PUSH, body, gate.known).status_code for _ in range(3)] == [207, 207, 413]
    assert gate.ask(PUSH, piece(gate.other, MIB // 2 - 300), gate.other).status_code == 207
    message = Message(
        metadata=Metadata(src_node_id=gate.known.node, dst_node_id=1, reply_to_message_id="a", run_id=5)
    )
    said = PushMessagesRequest(
        node=Node(node_id=gate.known.node), messages_list=[message], message_object_trees=[ObjectTree()]
    ).SerializeToString()
    gate.ask("/v1/fleet/push-messages", said, gate.known)
    assert gate.ask(PUSH, body, gate.known).status_code == 413  # the SuperLink answered 207: it took none
    gate.superlink.status = 200
    gate.ask("/v1/fleet/push-messages", said, gate.known)
    assert gate.ask(PUSH, body, gate.known).status_code == 200


def test_a_hospital_that_is_revoked_while_it_sends_is_not_heard(gate):
    body = piece(gate.known, 200_000)
    head = "".join(f"{k}: {v}\r\n" for k, v in gate.known.headers().items())
    with gate.wire() as wire:
        wire.sendall(f"POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode())
        wire.sendall(body[:150_000])
        gate.admit(gate.other)
        wire.sendall(body[150_000:])
        assert wire.recv(100).startswith(b"HTTP/1.1 401")
    assert not gate.superlink.asked
