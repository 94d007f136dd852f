"""Start the programs of a folder, and keep them running until somebody ends them."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import httpx

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.logs import Reader
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.processes import Program, Programs, end, leftovers
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import audit
from fedmerge.federation.policy.installed import code_version
from fedmerge.federation.policy.rules import policy_hash, read_policy
from fedmerge.storage.files import locked, make_folder

_HELD: list[socket.socket] = []  # UDP sockets that reserve ports, until this process ends
START = 600.0  # seconds that a program may take to answer: imports take minutes on a loaded machine
STARTED = Path("service") / "processes.json"  # the file, in a folder, of the programs started last


@contextlib.contextmanager
def at_service(folder: Path) -> Iterator[Programs]:
    """Yield a folder's ``Programs``, to start; they end with the block. Nobody else can start them meanwhile.

    Programs of an earlier process that was killed are ended first. Raises FedMergeError if another process
    serves the folder.
    """
    make_folder((folder / STARTED).parent)
    again = f"'{folder}' is started already: end that first, or look with `fedmerge deployment status`."
    with locked((folder / STARTED).parent, again):
        end(leftovers(folder / STARTED))
        with Programs(folder / STARTED) as programs:
            yield programs


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM exit the block, so that programs started in it end, too.

    ``keep_up`` handles the signal itself; this is for the minutes that a start may take.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start_server(
    programs: Programs, folder: ServerFolder, told: Callable[[str], None] = lambda _: None
) -> list[Program]:
    """Start SuperLink and gate; both answer when this returns. Raises FedMergeError if one does not.

    told: called with each step that is waited for.
    """
    settings = folder.settings
    note_start(programs, folder.path, "server", code=code_version())
    for port in (settings.superlink_port, settings.port):
        _check_free(port)
    superlink = programs.start(folder.command(), folder.env, folder.path / "superlink.log", _reader(folder))
    told("the SuperLink is starting")
    superlink.wait_until(lambda: _answers(folder.loopback[0], settings.superlink_port), START, "answer")
    if folder.admitted.is_file():
        folder.forget_the_revoked()
    command = [sys.executable, "-m", "fedmerge.federation.deployment.gate", str(folder.path)]
    gate = programs.start(command, folder.env, folder.path / "gate.log", _reader(folder))
    told("the gate is starting")
    gate.wait_until(lambda: _answers(folder.authority, settings.port), START, "answer")
    return [superlink, gate]


def start_node(programs: Programs, folder: NodeFolder) -> list[Program]:
    """Start the SuperNode of a hospital, and the program that answers its messages.

    The SuperNode tries to reach its server until it is ended. Raises FedMergeError for a wrong policy.yaml.
    """
    read_policy(folder.path)
    port, log = free_port(), folder.path / "supernode.log"
    folder.new_secret()
    note_start(programs, folder.path, "node", policy=policy_hash(folder.path), code=code_version())
    site = folder.settings.site
    supernode = programs.start(folder.command(port), folder.env, log, Reader(site))
    command = folder.tasks(port, supernode.process.pid)
    return [supernode, programs.start(command, folder.env, log, Reader(site))]


def note_start(programs: Programs, folder: Path, kind: str, **fields: str) -> None:
    """Record in a folder's audit log that its programs start, and, when they end, that they stopped."""
    audit(folder, f"{kind} started", **fields)
    programs.callback(audit, folder, f"{kind} stopped")


def _reader(folder: ServerFolder) -> Reader:
    """Return a reader for the server's programs that assigns lines about a node to its hospital."""
    known: dict[int, str] = {}

    def name(node: int) -> str | None:
        if node not in known:
            with contextlib.suppress(FedMergeError):
                known.update({number: hospital.name for number, hospital in folder.hospitals().items()})
        return known.get(node)

    return Reader("server", name)


def keep_up(programs: list[Program], told: Callable[[], bool] = lambda: False) -> None:
    """Wait until this process gets SIGINT or SIGTERM, or ``told()`` is true.

    Raises FedMergeError if one of the programs ends by itself.
    """
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stopped and not told():
            for program in programs:
                if not program.running:
                    raise FedMergeError(f"{program.name} ended: {program.last_words()} (log: {program.log})")
            time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a free port of this machine that no other call, in any process, returns.

    A program takes seconds to start listening, in which another could get the same port, and gRPC lets two
    listen at once. So the UDP port of that number is held until this process ends. The range is outside the
    ephemeral ports and those that Ray gives out.
    """
    while True:
        port = random.SystemRandom().randrange(24_001, 32_000)
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as probe, contextlib.suppress(OSError):
            held.bind(("127.0.0.1", port))
            probe.bind(("", port))
            _HELD.append(held)
            return port
        held.close()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise FedMergeError(
                f"port {port} is in use: end what listens there, or choose another in server.yaml."
            ) from None


def _answers(authority: Path, port: int) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    try:
        httpx.get(f"https://127.0.0.1:{port}/health", verify=context, timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return True
