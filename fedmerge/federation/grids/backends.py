"""Backends: where the hospitals of a run compute, in this process or in worker processes of a Ray cluster.

The backend changes no result: same seed and threads, same bits. So it is no part of an experiment's
configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fedmerge.cluster.config import BackendConfig

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp

    from fedmerge.data import Site


class Backend(Protocol):
    """The place where hospitals compute. It runs a ServerApp over them."""

    @property
    def words(self) -> str:
        """The backend in words, for a run's provenance."""

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Run ``app`` with one hospital per site until its main function returns.

        ``progress(site name, done steps, total steps)`` is called during each hospital's training.
        """


BackendLike: TypeAlias = "Backend | BackendConfig | str | Mapping[str, Any] | None"
"""An open backend, or anything that ``BackendConfig.of`` takes."""


@contextmanager
def open_backend(where: BackendLike) -> Iterator[tuple[Backend, int | None]]:
    """Open a run's backend for the block; yield it and its number of threads (None: PyTorch's choice).

    Raises FedMergeError where Ray is missing or not reached.
    """
    if where is None or isinstance(where, BackendConfig | str | Mapping):
        backend = BackendConfig.of(where)
        with _opened(backend) as opened:
            yield opened, backend.threads
    else:
        yield where, None


def waited_for(where: BackendLike) -> str:
    """Return what opening a backend waits for, in words; empty where that takes no time."""
    if not (where is None or isinstance(where, BackendConfig | str | Mapping)):
        return ""
    backend = BackendConfig.of(where)
    return "" if backend.kind == "local" else backend.waited_for


@contextmanager
def _opened(backend: BackendConfig) -> Iterator[Backend]:
    if backend.kind == "local":
        yield LocalBackend(backend.workers)
        return
    from fedmerge.federation.grids.ray.backend import ray_backend

    with ray_backend(backend) as opened:
        yield opened


class LocalBackend:
    """The backend ``local``: hospitals compute in this process.

    workers: processes of the run: 1, this one alone; 2, a second one for what asks no hospital; None: the
    run's choice.
    """

    words = "in this process"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """See ``Backend``."""
        from fedmerge.federation.grids.local import simulate

        simulate(app, sites, device=device, progress=progress)


LOCAL: Backend = LocalBackend()
