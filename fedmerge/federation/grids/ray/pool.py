"""The workers of a run at the server: start them, watch them, replace dead ones, end them with the run."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from fedmerge.cluster.config import BackendConfig
from fedmerge.cluster.head import Head
from fedmerge.cluster.room import first_line, places
from fedmerge.errors import FedMergeError
from fedmerge.federation.grids.ray.numerics import Numerics
from fedmerge.federation.grids.ray.worker import Worker, versions

_remote: Any = ray.remote
_ACTOR = _remote(concurrency_groups={"watch": 1})(Worker)


class WorkerHandle:
    """The server's handle of one worker. failure: why it could not be started, else empty."""

    def __init__(self, index: int, options: dict[str, Any], numerics: Numerics) -> None:
        self.index = index
        self.ready = False
        self.failure = ""
        self.actor = _ACTOR.options(**options).remote(numerics)
        self.greeting = self.actor.hello.remote()

    def wait_for_clients(self) -> None:
        """Check, without waiting, whether the worker is ready. Raises FedMergeError for other versions."""
        if self.ready or self.failure:
            return
        try:
            theirs = ray.get(self.greeting, timeout=0)
        except GetTimeoutError:
            return
        except RayError as error:
            self.failure = first_line(error)
            return
        for name, ours in versions().items():
            if theirs[name] != ours:
                raise FedMergeError(
                    f"a node of the Ray cluster has {name} {theirs[name]}, this machine {ours}: install the "
                    "same version on every node, because others would not give the same bits."
                )
        self.ready = True


class Pool:
    """Workers with equal shares of CPUs and GPUs. A new worker replaces a dead one under its number."""

    def __init__(self, backend: BackendConfig, device: str, hospitals: int) -> None:
        self.backend = backend
        have = ray.cluster_resources()
        gpus = backend.gpus if backend.gpus is not None or device.startswith("cuda") else 0.0
        self.count = places(backend, have, gpus, hospitals)
        self._options = {
            "num_cpus": backend.cpus,
            "num_gpus": have.get("GPU", 0.0) / self.count if gpus is None else gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
        }
        self._numerics = Numerics.here()
        self._head = Head.of(backend)
        self._gathered, self._tries = False, 0
        self._last_seen = time.monotonic()
        self.hands = [self._start(index) for index in range(self.count)]

    @property
    def on_gpu(self) -> bool:
        """Whether each worker has a share of a GPU."""
        return bool(self._options["num_gpus"])

    def ready(self) -> list[WorkerHandle]:
        """Return the workers that are ready. Raises HeadLost where the cluster's head does not answer."""
        self._head.check()
        for hand in list(self.hands):
            hand.wait_for_clients()
            if hand.failure and self._tries:
                self._tries -= 1
                self.replace(hand)
        there = [hand for hand in self.hands if hand.ready]
        if there:
            self._last_seen = time.monotonic()
        return there

    def gather(self) -> None:
        """Wait, at the first call, until all workers are ready or the patience is over."""
        if self._gathered:
            return
        end = time.monotonic() + self.backend.patience
        while len(self.ready()) < self.count and time.monotonic() < end:
            self.wait(self.count, 1.0)
        self._gathered, self._tries = True, 3 * self.count

    def wait(self, number: int, seconds: float) -> None:
        """Wait up to ``seconds`` for ``number`` workers. Raises FedMergeError if none was ready for long."""
        starting = [hand.greeting for hand in self.hands if not hand.ready and not hand.failure]
        if starting:
            ray.wait(starting, num_returns=min(number, len(starting)), timeout=seconds)
        if self.ready():
            return
        broken = [hand.failure for hand in self.hands if hand.failure]
        if len(broken) == len(self.hands):
            raise FedMergeError(
                f"no worker can be started ({broken[0]}): every node of the Ray cluster needs fedmerge, "
                "installed as it is here."
            )
        if time.monotonic() - self._last_seen > self.backend.patience:
            raise FedMergeError(self._none())

    def replace(self, hand: WorkerHandle) -> None:
        """End a worker that died or hangs, and request another; the cluster starts it when it has room."""
        if self.hands[hand.index] is hand:
            ray.kill(hand.actor, no_restart=True)
            self.hands[hand.index] = self._start(hand.index)

    def close(self) -> None:
        """End all workers."""
        for hand in self.hands:
            ray.kill(hand.actor, no_restart=True)

    def _start(self, index: int) -> WorkerHandle:
        return WorkerHandle(index, self._options, self._numerics)

    def _none(self) -> str:
        cpus, gpus = self._options["num_cpus"], self._options["num_gpus"]
        free = ray.available_resources()
        return (
            f"not one worker was there after {self.backend.patience:g} s: each asks for {cpus:g} CPUs and "
            f"{gpus:g} GPUs, and the Ray cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} "
            "GPUs free. Ask for a smaller share, or free some."
        )
