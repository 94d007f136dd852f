"""An HTTPS port for untrusted callers: connections, heads and bodies have time limits, addresses a share.

HTTP is by h11, TLS by asyncio. A body is read only when ``answer`` asks for it, into a buffer of at most half
a megabyte, so a sender that is faster than the reader waits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate

import h11

from fedmerge.federation.deployment.limits import Limits

BUFFER = 256 * 2**10
LONGEST_HEAD = 16 * 2**10
LINGER = 2.0  # seconds in which an unwanted body is discarded, so that its sender reads the refusal


@dataclass(frozen=True)
class Call:
    """A call whose head was read. headers: all values of each header, by lower-case name."""

    method: str
    target: str
    headers: dict[str, list[str]]
    address: str
    body: AsyncIterator[bytes]


@dataclass(frozen=True)
class GateReply:
    """The reply to a call; ``body`` comes in pieces, and is closed in any case."""

    status: int
    body: AsyncIterator[bytes]
    headers: Sequence[tuple[str, str]] = ()
    length: int | None = None


Handler = Callable[[Call], Awaitable[GateReply]]


def text(status: int, sentence: str) -> GateReply:
    """Return a reply with a sentence."""

    async def body() -> AsyncIterator[bytes]:
        yield sentence.encode()

    return GateReply(status, body(), [("content-type", "text/plain; charset=utf-8")], len(sentence.encode()))


@dataclass
class Room:
    """The numbers of open connections, by address and in total."""

    limits: Limits
    held: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count one more connection if there is room; return whether there is."""
        share = self.limits.connections_per_address
        if self.held.total() >= self.limits.connections or self.held[address] >= share:
            return False
        self.held[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one connection less."""
        self.held[address] -= 1
        if not self.held[address]:
            del self.held[address]


def network(address: str) -> str:
    """Return what counts as one address: for IPv6 the /64 network, which one machine is given."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Door:
    """Accepts connections at a listening socket and answers their calls with ``answer``."""

    def __init__(self, limits: Limits, context: Callable[[], ssl.SSLContext], respond: Handler) -> None:
        """context: returns the TLS context, called for each connection."""
        self.limits, self.context, self.respond = limits, context, respond
        self.room = Room(limits)
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket) -> None:
        """Accept connections until this is cancelled."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        try:
            while True:
                try:
                    wire, peer = await loop.sock_accept(listening)
                except OSError:  # too many open files, or a connection that closed at once
                    await asyncio.sleep(0.1)
                    continue
                address = network(peer[0])
                if not self.room.enter(address):
                    wire.close()
                    continue
                task = loop.create_task(self._connection(wire, address))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _connection(self, wire: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(BUFFER)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport | None = None
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self.limits.handshake_seconds):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, wire, ssl=self.context(), ssl_shutdown_timeout=LINGER,
                    ssl_handshake_timeout=self.limits.handshake_seconds,
                )  # fmt: skip
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await _Conversation(self, reader, writer, address).hold()
        except (OSError, EOFError, TimeoutError, h11.ProtocolError):
            pass  # the caller went away or was too slow: nobody is left to reply to
        finally:
            if transport is not None:
                transport.abort()
            wire.close()
            self.room.leave(address)


class _Conversation:
    """One connection: calls and replies in turn."""

    def __init__(
        self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str
    ) -> None:
        self.door, self.limits = door, door.limits
        self.reader, self.writer, self.address = reader, writer, address
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self.pending = 0

    async def hold(self) -> None:
        """Answer calls until one side closes the connection."""
        while True:
            try:
                async with asyncio.timeout(self.limits.head_seconds):
                    asked = await self._next()
            except h11.RemoteProtocolError:
                await self._send(text(400, "not understood"))
                return
            if not isinstance(asked, h11.Request):
                return
            headers: dict[str, list[str]] = {}
            for name, value in asked.headers:
                headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
            length = next(iter(headers.get("content-length", ())), "0")
            call = Call(
                asked.method.decode(), asked.target.decode("latin-1"), headers, self.address,
                self._body(int(length)),
            )  # fmt: skip
            await self._send(await self.door.respond(call))
            if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
                await self._linger()
                return
            self.http.start_next_cycle()

    async def _body(self, length: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces. Raises TimeoutError if it is too slow, EOFError if it ends early."""
        until = time.monotonic() + self.limits.patience(length)
        if self.http.they_are_waiting_for_100_continue:
            await self._write(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            async with asyncio.timeout(until - time.monotonic()):
                try:
                    event = await self._next()
                except h11.RemoteProtocolError:
                    raise EOFError from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise EOFError

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(BUFFER))
        return event  # type: ignore[return-value]

    async def _send(self, reply: GateReply) -> None:
        headers = [("date", formatdate(usegmt=True)), *reply.headers]
        if reply.length is not None:
            headers.append(("content-length", str(reply.length)))
        if self.http.their_state not in (h11.DONE, h11.IDLE):
            headers.append(("connection", "close"))
        until = time.monotonic() + self.limits.patience(0)
        try:
            await self._write(h11.Response(status_code=reply.status, headers=headers))
            async for piece in reply.body:
                until += self.limits.patience(len(piece)) - self.limits.body_seconds
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    await self._write(h11.Data(data=piece))
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                await self._write(h11.EndOfMessage())
        finally:
            if hasattr(reply.body, "aclose"):
                await reply.body.aclose()

    async def _write(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def _linger(self) -> None:
        """Discard further input for a moment, so that a refused caller reads the reply before the close."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER):
                while await self.reader.read(BUFFER):
                    pass
