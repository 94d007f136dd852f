"""The gate, the server's open port: TLS, and only the calls that admitted hospitals may make for themselves.

A SuperLink serves three interfaces on one port: that of hospitals, which requires a registered key for every
message, and those for starting runs and for its own processes, which do not. Whoever reached the latter two
could admit a key of his own or start a run. A SuperLink also reads a message whole before it checks the key.
So the SuperLink listens only on this machine, and the gate forwards only hospitals' calls, of limited size,
after it has checked key, signature and time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from fedmerge.federation.deployment.callers import IDENTITY, KNOWN, Caller, Callers, Refused
from fedmerge.federation.deployment.calls import ACTIVATE, CALLS, HEAD, PUSH, READ, REPLY, check_call, passed
from fedmerge.federation.deployment.certificates import Certificate
from fedmerge.federation.deployment.door import Call, Door, GateReply, text
from fedmerge.federation.deployment.limits import MIB, Limits
from fedmerge.federation.deployment.server_folder import ServerFolder

FLEET = "/v1/fleet/"
PASSED = ("content-type", "accept", "accept-encoding", "content-length", *IDENTITY)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "content-length"}
QUIET = 60.0  # seconds in which the same refusal is logged once


class Gate:
    """Answers the calls of a ``Door``, most of them by forwarding to the SuperLink."""

    def __init__(self, limits: Limits, callers: Callers, superlink: httpx.AsyncClient) -> None:
        self.limits, self.callers, self.superlink = limits, callers, superlink
        self.log = RefusalLog()
        self.calls: Counter[int] = Counter()
        self.coming: Counter[int] = Counter()
        self.pushed: Counter[int] = Counter()

    async def respond(self, call: Call) -> GateReply:
        """Return the reply to one call, which may be a refusal."""
        try:
            return await self._answer(call)
        except (OSError, EOFError, TimeoutError):
            raise  # the connection failed: nobody is left to reply to
        except Exception as error:
            refused = (
                error if isinstance(error, Refused) else Refused(503, f"a fault of the gate ({error!r}).")
            )
            self.log.write(call.address, refused)
            return _refusal(call.target, refused)

    async def _answer(self, call: Call) -> GateReply:
        name = call.target.removeprefix(FLEET)
        if call.target != KNOWN and (name == call.target or name not in CALLS):
            return text(404, "not found")
        if call.method != "POST":
            return text(405, "only POST")
        caller = self.callers.check(call.headers)
        if call.target == KNOWN:
            return text(200, json.dumps({"name": caller.name, "node": caller.node}))
        length = _length(call, caller)
        most = self.limits.max_body_mib * MIB if name == PUSH else min(READ, self.limits.max_body_mib * MIB)
        if length > most:
            raise Refused(413, f"{name} of {length / MIB:.1f} MiB: {most / MIB:g} are allowed.", caller.name)
        with self._counted(name, length, caller):
            return await self._forward(call, name, length, caller)

    @contextmanager
    def _counted(self, name: str, length: int, caller: Caller) -> Iterator[None]:
        """Count a hospital's calls and bytes at the same time. Raises Refused above the limits."""
        node, limits = caller.node, self.limits
        if self.calls[node] >= limits.calls_per_hospital:
            raise Refused(503, "too many calls at the same time.", caller.name)
        if self.coming[node] and self.coming[node] + length > 2 * limits.max_body_mib * MIB:
            raise Refused(503, "too much at the same time.", caller.name)
        if name == PUSH:
            if self.pushed[node] + length > limits.max_reply_mib * MIB:
                raise Refused(
                    413,
                    f"a reply of more than {limits.max_reply_mib:g} MiB: the server's people may set "
                    "max_reply_mib under limits in server.yaml.",
                    caller.name,
                )
            self.pushed[node] += length
        self.calls[node] += 1
        self.coming[node] += length
        try:
            yield
        finally:
            self.calls[node] -= 1
            self.coming[node] -= length

    async def _forward(self, call: Call, name: str, length: int, caller: Caller) -> GateReply:
        content: AsyncIterator[bytes] | bytes
        if name == PUSH and length > HEAD:
            content = passed(call.body, length, caller, self.callers.still)
        else:
            content = b"".join([piece async for piece in call.body])
            check_call(name, content, caller)
        headers = [(k, v) for k, values in call.headers.items() if _is_passed(k) for v in values]
        asked = self.superlink.build_request("POST", FLEET + name, headers=headers, content=content)
        try:
            async with asyncio.timeout(self.limits.patience(length) + self.limits.superlink_seconds):
                response = await self.superlink.send(asked, stream=True)
        except httpx.TransportError:
            raise Refused(502, "the SuperLink does not answer.") from None
        if response.status_code == 500:  # for example, its database was busy for five seconds
            await response.aclose()
            # after 500 a SuperNode stops listening but does not end (flwr 1.42); after 503 it tries again
            raise Refused(503, f"the SuperLink failed at {name}, see superlink.log.", caller.name)
        if name == REPLY and response.status_code == 200:
            self.pushed[caller.node] = 0
        told = response.headers.get("content-length")
        kept = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in HOP_BY_HOP | {"date"}]
        return GateReply(response.status_code, _pieces(response), kept, int(told) if told else None)


class RefusalLog:
    """Logs refusals to stderr, the same one at most once a minute, with its count."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.said: dict[tuple[str, str], float] = {}

    def write(self, address: str, refused: Refused) -> None:
        """Count a refusal; log it if the last of its kind is a minute ago."""
        now = datetime.now(UTC)
        kind = (refused.who or address, refused.sentence)
        if len(self.said) > 1000:
            self.said = {each: at for each, at in self.said.items() if now.timestamp() - at < QUIET}
            self.counts = Counter({each: self.counts[each] for each in self.said})
        self.counts[kind] += 1
        if now.timestamp() - self.said.get(kind, 0.0) < QUIET or len(self.said) > 1000:
            return
        self.said[kind] = now.timestamp()
        times = self.counts.pop(kind)
        who = f"{refused.who} at {address}" if refused.who else address
        again = f" ({times} times)" if times > 1 else ""
        print(
            f"{now:%Y-%m-%d %H:%M:%S} refused {who}: {refused.sentence}{again}", file=sys.stderr, flush=True
        )


def _refusal(target: str, refused: Refused) -> GateReply:
    """Return a refusal; for a node that starts, in Flower's own form, so that the node logs it and ends."""
    if target == FLEET + ACTIVATE and refused.status in (400, 401):
        told = {"code": 2004, "detail": f"The server's gate: {refused.sentence}", "extra": None}
        return text(409, json.dumps(told))
    return text(refused.status, refused.sentence)


def _length(call: Call, caller: Caller) -> int:
    lengths = call.headers.get("content-length", [])
    if len(lengths) != 1 or "transfer-encoding" in call.headers or "content-encoding" in call.headers:
        raise Refused(411, "a call says how long its body is.", caller.name)
    return int(lengths[0])


def _is_passed(name: str) -> bool:
    return name in PASSED or name.startswith(("flwr-", "x-flwr-"))


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    finally:
        await response.aclose()


async def serve(folder: ServerFolder) -> None:
    """Serve a server's folder until this is cancelled."""
    settings, limits = folder.settings, folder.settings.limits
    certificate = Certificate(folder.certificate)
    trusted = ssl.create_default_context(cafile=str(folder.loopback[0]))
    waits = httpx.Timeout(limits.superlink_seconds, connect=10, pool=limits.superlink_seconds)
    sockets = httpx.Limits(max_connections=limits.connections, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=f"https://{folder.superlink}", verify=trusted, timeout=waits, limits=sockets, trust_env=False
    ) as superlink:
        gate = Gate(limits, Callers(folder.admitted), superlink)
        with listen(settings.host, settings.port) as listening:
            await Door(limits, certificate.context, gate.respond).serve(listening)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ``::`` is for IPv4 and IPv6."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
        (host, port), family=family, backlog=256, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
    )


def main(folder: str) -> None:
    """Serve the gate of a server's folder until the process is ended."""
    asyncio.run(serve(ServerFolder(Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1])
