"""What the open port of a deployment withstands, and what its gate costs an honest hospital.

A server as ``fedmerge deployment start`` starts it, and whoever reaches its port: bodies of 600 MiB without a
key, with a foreign one and with an admitted one; connections that never finish TLS, a head or a body. Memory
is resident memory of SuperLink and gate at its highest, in MB. Throughput is the time of the same signed call
through the gate against the SuperLink without it, in turns. Takes some four minutes. Run
`python -m benchmarks.simulations.gate --out benchmarks/results/gate.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import statistics
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.deployment.processes import Program, Programs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port, start_server

MB = 1e6
BODY = 600 * 2**20
MANY = 200
LOOKS = (2, 6, 12, 20, 40, 75)  # seconds after which the connections that live on are counted


class Key:
    """A hospital's key, and the headers that Flower signs with it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.public = make_node_key(folder)
        key = serialization.load_ssh_private_key((folder / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.key = key

    def headers(self) -> dict[str, str]:
        """Return the headers of one call, signed now."""
        at = datetime.now(UTC).isoformat()
        pem = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "flwr-public-key": b64encode(pem).decode(),
            "flwr-timestamp": at,
            "flwr-signature": b64encode(self.key.sign(at.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
            "content-type": "application/protobuf",
        }


def address(number: int) -> str:
    """Return one of many addresses of this machine, so that no limit for one address applies."""
    return f"127.0.1.{1 + number % 40}"


def connected(folder: ServerFolder, number: int, tls: bool = True) -> socket.socket:
    """A connection to the gate."""
    plain = socket.create_connection(
        ("127.0.0.1", folder.settings.port), timeout=20, source_address=(address(number), 0)
    )
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(folder.authority))
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


@contextmanager
def memory(programs: list[Program]) -> Iterator[dict[str, float]]:
    """Give each program's highest resident memory in the block, in MB, and its memory before."""
    found: dict[str, float] = {}
    over = threading.Event()
    members = [(program, psutil.Process(program.process.pid)) for program in programs]

    def look() -> None:
        for program, process in members:
            name = "superlink" if "superlink" in program.name else "gate"
            with suppress(psutil.NoSuchProcess):
                now = process.memory_info().rss / MB
                found.setdefault(f"{name}_before", round(now))
                found[name] = round(max(found.get(name, 0.0), now))

    def watch() -> None:
        while not over.wait(0.02):
            look()

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def flood(folder: ServerFolder, headers: dict[str, str]) -> dict[str, Any]:
    """Send BODY bytes to push-object; how many were taken, and what was answered."""
    head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    sent, piece = 0, bytes(2**20)
    with connected(folder, 0) as wire:
        wire.sendall(
            f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY}\r\n{head}\r\n".encode()
        )
        with suppress(OSError):
            while sent < BODY:
                wire.sendall(piece)
                sent += len(piece)
        answer = b""
        with suppress(OSError):
            answer = wire.recv(4096)
    return {"sent_mib": sent // 2**20, "answer": answer.split(b"\r\n")[0].decode() or "connection reset"}


def living(folder: ServerFolder, gate: Program) -> int:
    """Connections to the port that the gate holds."""
    found = psutil.Process(gate.process.pid).net_connections("tcp")
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == folder.settings.port for each in found
    )


def crowd(
    folder: ServerFolder,
    programs: list[Program],
    tls: bool,
    drip: Callable[[socket.socket, bool], None],
    honest: Callable[[], float],
) -> dict[str, Any]:
    """Open MANY connections; call ``drip`` on each, first with True, then every second; count those alive."""
    alive: dict[str, int] = {}
    with memory(programs) as found:
        wires = []
        for number in range(MANY):
            with suppress(OSError):
                wires.append(connected(folder, number, tls))
        began = time.monotonic()
        first, looks, waited = True, list(LOOKS), []
        while looks:
            for wire in wires:
                with suppress(OSError):
                    wire.setblocking(False)
                    drip(wire, first)
            first = False
            waited.append(honest())
            time.sleep(1)
            if time.monotonic() - began >= looks[0]:
                alive[f"{looks.pop(0)} s"] = living(folder, programs[1])
        for wire in wires:
            wire.close()
    return {"alive": alive, "honest_call_worst_s": round(max(waited), 3)} | found


def ratio(one: Callable[[], float], other: Callable[[], float], times: int) -> dict[str, float]:
    """Median seconds of both, in turns, and the median of their ratios."""
    pairs = [(one(), other()) for _ in range(times)][2:]
    return {
        "gate_ms": round(1000 * statistics.median(a for a, _ in pairs), 1),
        "direct_ms": round(1000 * statistics.median(b for _, b in pairs), 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
    }


def call(client: httpx.Client, key: Key, path: str, body: bytes) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    client.post(path, content=body, headers=key.headers())
    return time.perf_counter() - began


def measure(folder: ServerFolder, programs: list[Program], place: Path) -> dict[str, Any]:
    """Measure everything, one after the other."""
    known, foreign = Key(place / "known"), Key(place / "foreign")
    node = folder.admit("north", known.public)
    beat = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=30).SerializeToString()
    pushed = PushObjectRequest(
        node=Node(node_id=node), run_id=1, object_id="0" * 64, object_content=os.urandom(5 * 2**20)
    ).SerializeToString()
    through = httpx.Client(
        base_url=f"https://127.0.0.1:{folder.settings.port}",
        verify=ssl.create_default_context(cafile=str(folder.authority)),
        trust_env=False, timeout=60,
    )  # fmt: skip
    direct = httpx.Client(
        base_url=f"https://{folder.superlink}",
        verify=ssl.create_default_context(cafile=str(folder.loopback[0])),
        trust_env=False, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = {}
    sides = [(lambda c=c, p=p, b=b: call(c, known, p, b)) for p, b in (
        ("/v1/fleet/push-object", pushed), ("/v1/fleet/send-node-heartbeat", beat)
    ) for c in (through, direct)]  # fmt: skip
    found["push of 5 MiB"] = ratio(sides[0], sides[1], 42)
    found["heartbeat"] = ratio(sides[2], sides[3], 42)
    for who, headers in (
        ("no key", dict[str, str]()), ("foreign key", foreign.headers()), ("admitted key", known.headers())
    ):  # fmt: skip
        with memory(programs) as peak:
            said = flood(folder, headers)
        found[f"600 MiB, {who}"] = said | peak

    def honest() -> float:
        try:
            return call(through, known, "/v1/fleet/send-node-heartbeat", beat)
        except httpx.TimeoutException:
            return 60.0  # and no answer then

    def nothing(wire: socket.socket, first: bool) -> None:
        pass

    def slow_head(wire: socket.socket, first: bool) -> None:
        wire.send(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx-a: " if first else b"a")

    def slow_body(wire: socket.socket, first: bool) -> None:
        head = "".join(f"{k}: {v}\r\n" for k, v in known.headers().items())
        text = f"POST /v1/fleet/push-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n{head}\r\n"
        wire.send(text.encode() if first else b"a")

    for what, tls, drip in (
        ("half-open TLS", False, nothing), ("idle", True, nothing), ("slow heads", True, slow_head),
        ("slow bodies of an admitted key", True, slow_body),
    ):  # fmt: skip
        found[f"{MANY} connections, {what}"] = crowd(folder, programs, tls, drip, honest)
    return found


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Programs() as programs:
        place = Path(name)
        folder = ServerFolder.make(place / "server", ["127.0.0.1"], "127.0.0.1", free_port(), free_port())
        found = measure(folder, start_server(programs, folder), place)
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
