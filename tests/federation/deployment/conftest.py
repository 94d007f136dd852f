"""A gate on a real port of this machine, before a stand-in for a SuperLink, with hospitals that have keys."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedmerge.federation.admission import Admitted, write_admitted
from fedmerge.federation.deployment.callers import Callers, signed_headers
from fedmerge.federation.deployment.certificates import (
    Certificate,
)
from fedmerge.federation.deployment.door import Door
from fedmerge.federation.deployment.gate import Gate, listen
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.deployment.limits import Limits
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port
from tests.federation.deployment.identities import NAME


class Hospital:
    """A name, a key, and the node id under which it was let in."""

    def __init__(self, folder, name, node):
        (folder / name).mkdir()
        self.name, self.node = name, node
        self.public = make_node_key(folder / name)
        self.private = (folder / name / "node.key").read_bytes()
        key = serialization.load_ssh_private_key(self.private, None).public_key()
        self.pem = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def headers(self, now=None):
        return signed_headers(self.private, now)


class Superlink:
    """Notes what it is asked; answers with the body turned round."""

    def __init__(self):
        self.asked = []
        self.status = 207

    async def respond(self, request: Request) -> Response:
        body = await request.body()
        self.asked.append((request.url.path, body, dict(request.headers)))
        return Response(body[::-1], self.status, {"x-seen": request.headers.get("flwr-timestamp", "none")})


class Running:
    """A gate that is up; ``ask`` is what comes over the wire."""

    def __init__(self, folder, superlink, hospitals, limits):
        self.folder, self.superlink, self.limits = folder, superlink, limits
        self.known, self.other, self.stranger = hospitals
        self.admit(self.known, self.other)
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=[self._serve()])
        self.thread.start()
        assert self.ready.wait(30)

    def admit(self, *hospitals):
        """These and no others."""
        write_admitted(
            self.folder.admitted,
            {h.node: Admitted(name=h.name, key=read_public(h.public)) for h in hospitals},
        )

    async def _serve(self):
        trusted = ssl.create_default_context(cafile=str(self.folder.loopback[0]))
        async with httpx.AsyncClient(
            base_url=f"https://{self.folder.superlink}", verify=trusted, trust_env=False
        ) as client:
            self.gate = Gate(self.limits, Callers(self.folder.admitted), client)
            self.certificate = Certificate(self.folder.certificate)
            self.door = Door(self.limits, self.certificate.context, self.gate.respond)
            with listen("127.0.0.1", self.folder.settings.port) as listening:
                self.task = asyncio.ensure_future(self.door.serve(listening))
                self.ready.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await self.task

    def stop(self):
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()
        self.loop.close()

    def trusting(self):
        return ssl.create_default_context(cafile=str(self.folder.authority))

    def ask(self, path, body=b"", hospital=None, method="POST", headers=None):
        """One call, signed by a hospital if one is given."""
        signed = (hospital.headers() if hospital else {}) | (headers or {})
        url = httpx.URL(f"https://127.0.0.1:{self.folder.settings.port}").copy_with(raw_path=path.encode())
        with httpx.Client(verify=self.trusting(), trust_env=False, timeout=30) as client:
            return client.request(method, url, content=body, headers=signed)

    def plain(self, address="127.0.0.1"):
        """A connection on which nothing was said yet."""
        return socket.create_connection(
            ("127.0.0.1", self.folder.settings.port), timeout=30, source_address=(address, 0)
        )

    def wire(self, address="127.0.0.1"):
        """A connection with TLS."""
        return self.trusting().wrap_socket(self.plain(address), server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A server's folder, and what stands where its SuperLink would."""
    path = tmp_path_factory.mktemp("gate") / "server"
    folder = ServerFolder.make(path, ["localhost"], "127.0.0.1", free_port(), free_port())
    superlink = Superlink()
    app = Starlette(routes=[Route("/{rest:path}", superlink.respond, methods=["GET", "POST"])])
    certificate, key = map(str, folder.loopback)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=folder.settings.superlink_port, log_level="error",
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield folder, superlink
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Two that are let in, with their node ids, and one that is not."""
    folder = tmp_path_factory.mktemp("hospitals")
    return [Hospital(folder, name, node) for name, node in (("north", 2**63 + 7), ("south", 11), ("x", 13))]


@pytest.fixture
def gates(behind, hospitals):
    """Starts a gate with limits of one's own; the last is ended with the test."""
    running = []

    def start(**limits):
        folder, superlink = behind
        superlink.asked.clear()
        superlink.status = 207
        running.append(Running(folder, superlink, hospitals, Limits(**limits)))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def gate(gates):
    return gates()


@pytest.fixture
def server(tmp_path):
    return ServerFolder.make(tmp_path / "server", [NAME], "127.0.0.1", 8000, 8001)
