"""Start a service: where it listens, what it needs there, and how it ends."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from fedmerge.errors import Faults, FedMergeError, short
from fedmerge.serving.app import make_app
from fedmerge.serving.guarded import LOCAL
from fedmerge.serving.protocol import timed
from fedmerge.serving.service import Service


@dataclass(frozen=True)
class Address:
    """Where a service listens. port: 0 for any. certificate, key: of TLS, PEM files.

    clients: a PEM file of the authorities whose certificates clients must show (mutual TLS).
    """

    host: str = "127.0.0.1"
    port: int = 8020
    certificate: Path | None = None
    key: Path | None = None
    clients: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self, tokens: bool) -> None:
        """Raise FedMergeError, a sentence per fault, where this address must not be listened at.

        tokens: whether clients need a token. Images of patients cross a network only under TLS, and only from
        clients that are known.
        """
        faults = Faults()
        if (self.certificate is None) != (self.key is None):
            faults.found.append("TLS takes both --certificate and --key: give the other one too.")
        if self.clients is not None and self.certificate is None:
            faults.found.append("--client-ca is a part of TLS: give --certificate and --key too.")
        if not self.local and self.certificate is None:
            faults.found.append(
                f"{self.host} can be reached from other machines, so images would cross the network in the "
                "clear: give --certificate and --key, or listen at 127.0.0.1 behind a proxy that has TLS."
            )
        if not self.local and not tokens and self.clients is None:
            faults.found.append(
                f"{self.host} can be reached from other machines, so clients must be known: give --tokens "
                "FILE (--new-token NAME makes one), or --client-ca for mutual TLS."
            )
        for what, path in (
            ("--certificate", self.certificate),
            ("--key", self.key),
            ("--client-ca", self.clients),
        ):
            if path is not None and not path.is_file():
                faults.found.append(f"{what}: there is no file '{short(path)}': check the path.")
        faults.say()


def serve(service: Service, address: Address, ready: Callable[[str], None]) -> None:
    """Answer calls until the process is told to end; calls in flight are answered first.

    ready: told the address once calls are answered. Raises FedMergeError for an address that cannot be
    listened at, or must not be (``Address.check``).
    """
    address.check(service.tokens is not None)
    with _listening(address) as listening:
        scheme = "https" if address.certificate else "http"
        host = f"[{address.host}]" if ":" in address.host else address.host
        where = f"{scheme}://{host}:{listening.getsockname()[1]}"
        _Ready(configured(service, address), lambda: ready(where)).run([listening])


def configured(service: Service, address: Address) -> uvicorn.Config:
    """Return how Uvicorn serves a service. Raises FedMergeError for TLS files that cannot be used."""
    limits = service.limits
    config = uvicorn.Config(
        make_app(service, LOCAL if address.local else None),
        http=timed(limits.head_seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        ssl_ca_certs=None if address.clients is None else str(address.clients),
        ssl_cert_reqs=ssl.CERT_NONE if address.clients is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise FedMergeError(
            f"the TLS files cannot be used ({error}): give PEM files, the key without a password and "
            "belonging to the certificate."
        ) from None
    return config


class _Ready(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def _listening(address: Address) -> socket.socket:
    """Return a socket that listens at an address. Raises FedMergeError where that is not possible."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=256)
    except OSError as error:
        raise FedMergeError(
            f"{address.host}, port {address.port} cannot be listened at ({error.strerror or error}): choose "
            "another with --host and --port."
        ) from None
