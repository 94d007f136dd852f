"""Who comes and says nothing, or says it slowly, goes; who comes too often is not let in.

No time is measured: what must end is waited for.
"""

import contextlib
import time

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

from fedmerge.federation.deployment.door import Room, network
from fedmerge.federation.deployment.limits import Limits

PULL = "/v1/fleet/pull-messages"
HASTY = Limits(head_seconds=0.3, body_seconds=0.3, slowest_kib=1000)
HASTY_TOO = HASTY.model_copy(update={"handshake_seconds": 0.3})  # whoever does not speak TLS at all


def signed(hospital):
    return "".join(f"{k}: {v}\r\n" for k, v in hospital.headers().items())


def nothing(gate, wire):
    pass


def half_a_hello(gate, wire):
    wire.sendall(b"\x16\x03\x01\x02\x00\x01\x00")


def plain_text(gate, wire):
    wire.sendall(b"GET / HTTP/1.1\r\n\r\n")


def half_a_head(gate, wire):
    wire.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx-a: ")


def endless_head(gate, wire):
    with contextlib.suppress(OSError):
        wire.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx-a: " + b"a" * 200_000)


def half_a_body(gate, wire):
    wire.sendall(
        f"POST {PULL} HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n{signed(gate.known)}\r\nab".encode()
    )


def no_body_wanted(gate, wire):
    wire.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")


def idle_after_a_call(gate, wire):
    wire.sendall(
        f"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{signed(gate.known)}\r\n".encode()
    )


@pytest.mark.parametrize(
    ("tls", "act"),
    [
        (False, nothing),
        (False, half_a_hello),
        (False, plain_text),
        (True, nothing),
        (True, half_a_head),
        (True, endless_head),
        (True, half_a_body),
        (True, no_body_wanted),
        (True, idle_after_a_call),
    ],
)
def test_many_who_do_not_go_on_are_gone(gates, tls, act):
    gate = gates()
    gate.door.limits = HASTY if tls else HASTY_TOO  # of the connections that begin now
    with contextlib.ExitStack() as wires:
        opened = [wires.enter_context(gate.wire() if tls else gate.plain()) for _ in range(20)]
        for wire in opened:
            with contextlib.suppress(OSError):  # it may have been ended by now
                act(gate, wire)
        for wire in opened:  # there is an end to what can be read; a wait of 30 seconds would fail
            with contextlib.suppress(ConnectionError):
                while wire.recv(65_536):
                    pass
    assert emptied(gate)


def emptied(gate):
    """Whether the gate holds no connection any more, or soon."""
    until = time.monotonic() + 30
    while gate.door.room.held and time.monotonic() < until:
        time.sleep(0.01)
    return not gate.door.room.held


@pytest.mark.parametrize(("tls", "act"), [(False, half_a_hello), (True, half_a_head), (True, half_a_body)])
def test_a_hospital_is_heard_while_many_do_not_go_on(gate, tls, act):
    with contextlib.ExitStack() as wires:
        for _ in range(14):  # of one hospital 16 calls may be on their way
            act(gate, wires.enter_context(gate.wire() if tls else gate.plain()))
        body = PullMessagesRequest(node=Node(node_id=gate.known.node)).SerializeToString()
        assert gate.ask(PULL, body, gate.known).status_code == 207
        assert gate.door.room.held.total() >= 14


def test_drops_of_a_head_or_a_body_buy_no_time(gates):
    """One byte after the other, each well within the time that the whole has."""
    gate = gates()
    gate.door.limits = HASTY
    for start in (half_a_head, half_a_body):
        with gate.wire() as wire:
            with contextlib.suppress(OSError):
                start(gate, wire)
            wire.settimeout(0.02)
            assert any(ended(wire) for _ in range(1500))  # 30 seconds, if the gate did not end it


def ended(wire):
    """Whether the other side has ended the connection, after one more byte and a moment."""
    try:
        wire.sendall(b"a")
        return wire.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_address_has_its_share_and_leaves_room_for_others(gates):
    gate = gates(connections=5, connections_per_address=3)
    with contextlib.ExitStack() as wires:
        for _ in range(3):
            wires.enter_context(gate.wire())
        assert not let_in(gate, "127.0.0.1")
        for _ in range(2):
            wires.enter_context(gate.wire("127.0.0.2"))
        assert not let_in(gate, "127.0.0.3")
    assert emptied(gate)
    assert gate.ask("/nowhere").status_code == 404


def let_in(gate, address):
    """Whether a connection from this address gets as far as TLS."""
    try:
        gate.wire(address).close()
    except OSError:
        return False
    return True


def test_an_address_of_ipv6_is_a_network():
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::") != network("2001:db8:1:2::")
    assert network("::ffff:10.0.0.7") == network("10.0.0.7") == "10.0.0.7"
    assert network("fe80::1%eth0") == "fe80::/64"


def test_who_left_is_not_counted():
    room = Room(Limits(connections=2, connections_per_address=1))
    assert [room.enter(a) for a in ("a", "a", "b", "c")] == [True, False, True, False]
    room.leave("a")
    assert room.enter("c")
    assert set(room.held) == {"b", "c"}


def test_a_caller_that_waits_to_be_told_to_go_on_is_told_only_if_it_may(gate):
    body = PullMessagesRequest(node=Node(node_id=gate.known.node)).SerializeToString()
    for who, expected in ((gate.known, b"HTTP/1.1 100"), (gate.stranger, b"HTTP/1.1 401")):
        with gate.wire() as wire:
            head = f"host: x\r\nexpect: 100-continue\r\ncontent-length: {len(body)}\r\n{signed(who)}"
            wire.sendall(f"POST {PULL} HTTP/1.1\r\n{head}\r\n".encode())
            assert wire.recv(100).startswith(expected)
