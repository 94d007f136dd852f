"""Check a hospital's calls: only Flower's own calls, and only for the node whose key signed them.

Flower's SuperLink compares the node that a call names with its key, but not the sender or the kind of the
messages in it: a hospital could reply in another's name, or push an instruction to another as if it came from
the server. Pieces of weights are forwarded without being held: only the bytes around them are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedmerge.federation.deployment.callers import Caller, Refused

PUSH, REPLY, ACTIVATE = "push-object", "push-messages", "activate-node"
CALLS: Mapping[str, Any] = {
    ACTIVATE: ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    REPLY: PushMessagesRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
    PUSH: PushObjectRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
}
"""Every call of a hospital with its request's class; Flower's two calls for self-registration are absent."""
READ = 4 * 2**20
"""The most bytes of a call that is read as a whole; a reply's list of 20,000 pieces has some 2 MiB."""
HEAD, TAIL = 4096, 1024
"""The most bytes before and after the content of a pushed piece."""


def check_call(call: str, body: bytes, caller: Caller) -> None:
    """Raise Refused if a call is not one of Flower's, or asks or replies for another node."""
    request = _parsed(call, body, caller)
    if call == ACTIVATE:
        _check(request.public_key == caller.pem, "it activates another's key", caller)
    else:
        node = request.node_id if hasattr(request, "node_id") else request.node.node_id
        _check(node == caller.node, "it names another hospital's node", caller)
    if call == REPLY:
        _check(
            len(request.messages_list) == 1 == len(request.message_object_trees),
            "it has other than one message",
            caller,
        )
        said = request.messages_list[0].metadata
        _check(said.src_node_id == caller.node, "its message says that another hospital sent it", caller)
        _check(said.dst_node_id == SUPERLINK_NODE_ID, "its message is for another than the server", caller)
        _check(said.reply_to_message_id != "", "its message is no reply", caller)


async def passed(
    pieces: AsyncIterator[bytes], length: int, caller: Caller, still: Callable[[Caller], bool]
) -> AsyncIterator[bytes]:
    """Yield the body of a pushed piece as it comes; hold its end back until everything around it is checked.

    length: of the body. still: called at the end, whether the hospital is still admitted. Raises Refused.
    """
    held = bytearray()
    async for piece in pieces:
        held += piece
        if len(held) >= min(HEAD, length):
            break
    begin, size = _content(bytes(held[:HEAD]), caller)
    after = length - begin - size
    _check(0 <= after <= TAIL, "its lengths do not agree", caller)
    skeleton = bytes(held[: _before(begin, size)])
    check_call(PUSH, skeleton, caller)
    kept = max(after, 1)
    gone = 0
    while True:
        free = min(len(held), length - kept - gone)
        if free > 0:
            yield bytes(held[:free])
            del held[:free]
            gone += free
        try:
            held += await anext(pieces)
        except StopAsyncIteration:
            break
    _check(gone + len(held) == length, "its lengths do not agree", caller)
    rest = bytes(held[len(held) - after :]) if after else b""
    whole = _parsed(PUSH, skeleton + rest, caller)
    _check(not whole.object_content, "it has two contents", caller)
    check_call(PUSH, skeleton + rest, caller)
    if not still(caller):
        raise Refused(401, "the hospital was revoked.", caller.name)
    yield bytes(held)


def _content(head: bytes, caller: Caller) -> tuple[int, int]:
    """Return where the content of a PushObjectRequest begins, and its length. Raises Refused without one."""
    at = 0
    try:
        while True:
            tag, at = _varint(head, at)
            if tag == 4 << 3 | 2:
                size, at = _varint(head, at)
                return at, size
            if tag & 7 == 2:
                size, at = _varint(head, at)
                at += size
            elif tag & 7 == 0:
                _, at = _varint(head, at)
            else:
                raise ValueError
    except (IndexError, ValueError):
        raise _no("it is not what Flower pushes", caller) from None


def _before(begin: int, size: int) -> int:
    """Return where the field of a content at ``begin`` starts: its tag and length come before."""
    return begin - 1 - max(1, -(-size.bit_length() // 7))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a protobuf varint in shortest form, and the position after it. Raises IndexError, ValueError."""
    value = 0
    for count in range(10):
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if count and not byte:
                raise ValueError
            return value, at + count + 1
    raise ValueError


def _parsed(call: str, body: bytes, caller: Caller) -> Any:
    try:
        return CALLS[call].FromString(body)
    except DecodeError:
        raise _no("it is not what Flower sends", caller) from None


def _check(holds: bool, what: str, caller: Caller) -> None:
    if not holds:
        raise _no(what, caller)


def _no(what: str, caller: Caller) -> Refused:
    return Refused(400, f"the call is refused: {what}.", caller.name)
