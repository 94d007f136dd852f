"""Notice that the head of a Ray cluster is gone: Ray itself ends the process then, after a minute."""

from __future__ import annotations

import socket
import time
from importlib import import_module

from fedmerge.cluster.access import CONNECT
from fedmerge.cluster.config import BackendConfig
from fedmerge.errors import FedMergeError

EVERY = 2.0  # seconds between two looks
LOST = 20.0  # seconds without an answer after which a head is given up


class HeadLost(FedMergeError):
    """The head of the Ray cluster does not answer any more: nothing more can be done on it."""


class Head:
    """The head of the cluster that this process is attached to, as it was seen last.

    address: HOST:PORT. every, lost: seconds between two looks, and without an answer until it is given up.
    """

    def __init__(self, address: str, every: float = EVERY, lost: float = LOST) -> None:
        self.address, self._every, self._lost = address, every, lost
        self._seen = self._looked = time.monotonic()

    @classmethod
    def of(cls, backend: BackendConfig) -> Head:
        """Return the head of the initialised Ray."""
        cluster = backend.cluster or ""
        if cluster.startswith("ray://"):
            return cls(cluster.removeprefix("ray://"))
        return cls(import_module("ray").get_runtime_context().gcs_address)

    def check(self) -> None:
        """Look at it, if that is due. Raises HeadLost where it has not answered for long."""
        now = time.monotonic()
        if now - self._looked < self._every:
            return
        self._looked = now
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
            self._seen = time.monotonic()
        except OSError:
            if time.monotonic() - self._seen > self._lost:
                raise HeadLost(
                    f"the head of the Ray cluster, {self.address}, has not answered for {self._lost:g} s: "
                    "see there whether it runs, and start the cluster again. What is finished is kept."
                ) from None
