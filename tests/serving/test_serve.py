"""A service at a port: slow heads, mutual TLS, and an end that answers what is in flight."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmerge.serving.limits import Limits
from fedmerge.serving.serve import Address, configured
from fedmerge.serving.service import Service
from fedmerge.workflows.served import find_models, served
from tests.facts import refused
from tests.serving.conftest import drawn, npz

GOOD = npz(drawn(3, seed=1))


@contextmanager
def listening(service: Service, address: Address) -> Iterator[tuple[uvicorn.Server, int]]:
    """A service at a port, in a thread."""
    server = uvicorn.Server(configured(service, address))
    with socket.create_server(("127.0.0.1", 0)) as wire:
        thread = threading.Thread(target=server.run, args=([wire],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield server, wire.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def what(folder):
    return served(find_models([folder]), device="cpu")


def test_a_connection_that_sends_no_head_is_closed(what):
    with listening(Service(what, Limits(head_seconds=1.0)), Address()) as (_, port):
        for begin in (b"", b"GET /v1/health HTTP/1.1\r\nx: "):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
                wire.sendall(begin)
                assert wire.recv(1) == b""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(3):  # one connection, and longer in all than a head may take
                time.sleep(0.4)
                assert client.post("/v1/batches", content=GOOD).status_code == 200


def test_what_is_in_flight_is_answered_before_the_end(what):
    begun, over = threading.Event(), threading.Event()

    class Slow:
        forward_passes = backward_passes = 0.0

        def __init__(self) -> None:
            self.inner = what.build()

        def observe(self, batch):
            begun.set()
            assert over.wait(30)
            return self.inner.observe(batch)

        def reset(self) -> None:
            pass

    statuses: list[int] = []
    with listening(Service(replace(what, build=Slow)), Address()) as (server, port):
        url = f"http://127.0.0.1:{port}/v1/batches"

        def call() -> None:
            statuses.append(httpx.post(url, content=GOOD, timeout=60, trust_env=False).status_code)

        caller = threading.Thread(target=call)
        caller.start()
        assert begun.wait(30)
        server.should_exit = True
        time.sleep(0.3)
        over.set()
        caller.join(60)
    assert statuses == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, content=GOOD, trust_env=False)


def certificate(name, issuer=None, authority=False):
    """A key and a certificate of it, signed by ``issuer``, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    above, signer = (subject, key) if issuer is None else (issuer[1].subject, issuer[0])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return key, made


def write(folder, name, made):
    """NAME.key and NAME.crt."""
    key = made[0].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.crt").write_bytes(made[1].public_bytes(serialization.Encoding.PEM))


def test_mutual_tls_names_the_client(what, tmp_path):
    ours, theirs = certificate("ours", authority=True), certificate("theirs", authority=True)
    for name, made in {
        "ca": ours,
        "node": certificate("node", ours),
        "ward": certificate("ward-3", ours),
        "stranger": certificate("ward-3", theirs),
    }.items():
        write(tmp_path, name, made)
    address = Address(
        certificate=tmp_path / "node.crt", key=tmp_path / "node.key", clients=tmp_path / "ca.crt"
    )

    def known(name, port):
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        if name:
            trust.load_cert_chain(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        url = f"https://127.0.0.1:{port}/v1/models"
        return httpx.get(url, verify=trust, trust_env=False).json()["client"]

    with listening(Service(what), address) as (_, port):
        assert known("ward", port) == "ward-3"
        for name in ("stranger", None):
            with pytest.raises(httpx.TransportError):
                known(name, port)
    with refused("TLS"):
        configured(Service(what), replace(address, key=tmp_path / "ward.key"))
