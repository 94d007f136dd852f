"""Where the hospitals of a run work: in this process, or in the worker processes of a Ray cluster.

The place changes nothing of what comes out: same seed and threads, same bits. So it is no part of an
experiment's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fedmerge.federation.backend import Backend

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp

    from fedmerge.data import Site


class Place(Protocol):
    """Somewhere with hospitals in it, where a ServerApp can run."""

    @property
    def words(self) -> str:
        """Where the hospitals work, for a run's provenance."""

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Run ``app`` with one hospital a site until its main function returns.

        ``progress(site name, done steps, total steps)`` follows each hospital's training.
        """


Where: TypeAlias = "Place | Backend | str | Mapping[str, Any] | None"
"""A place that is there already, or what ``Backend.of`` takes."""


@contextmanager
def go_to(where: Where) -> Iterator[tuple[Place, int | None]]:
    """The place for a run, as long as the block takes, and its number of threads where it has one.

    Raises FedMergeError where Ray is missing or not reached.
    """
    if where is None or isinstance(where, Backend | str | Mapping):
        backend = Backend.of(where)
        with _opened(backend) as place:
            yield place, backend.threads
    else:
        yield where, None


@contextmanager
def _opened(backend: Backend) -> Iterator[Place]:
    if backend.kind == "local":
        yield HERE
        return
    from fedmerge.federation.grids.ray.place import ray_place

    with ray_place(backend) as place:
        yield place


class _Here:
    """This process."""

    words = "in this process"

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """See ``Place``."""
        from fedmerge.federation.grids.local import simulate

        simulate(app, sites, device=device, progress=progress)


HERE: Place = _Here()
