"""Where the hospitals of a run work: in this process, or in the worker processes of a Ray cluster.

The place changes nothing of what comes out: same seed and threads, same bits. So it is no part of an
experiment's configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmerge.validation import validate

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


class Backend(BaseModel):
    """A place, described.

    kind: ``local``, this process, one hospital after another; or ``ray``, worker processes that each speak
    for several hospitals. The other fields are for ray.
    address: of a running cluster, ``auto`` (on this machine), ``HOST:PORT`` or ``ray://HOST:PORT``; None:
    what the environment variable RAY_ADDRESS says, else a Ray of our own for as long as the run takes.
    workers: worker processes; None: as many as the CPUs (or GPUs) allow, at most one a hospital.
    cpus, gpus: the share of one hospital at work, which is that of its worker; may be fractions. gpus None:
    on a CUDA device all workers share the GPUs evenly. patience: seconds that workers may take to start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    patience: float = Field(default=120.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Backend:
        extra = sorted(self.model_fields_set - {"kind"})
        if self.kind == "local" and extra:
            raise ValueError(
                f"kind local has no worker processes, so it takes no {', '.join(extra)}: choose kind ray"
            )
        if self.address is not None and not re.fullmatch(r"auto|(ray://)?[^/:\s]+:\d+", self.address):
            raise ValueError(
                f"address '{self.address}' is not one of a Ray cluster: give auto, HOST:PORT or ray://HOST:PORT"
            )
        return self

    @classmethod
    def of(cls, given: Backend | str | Mapping[str, Any] | None) -> Backend:
        """A Backend from its kind, from a mapping of fields, or None (local); FedMergeError if it is none."""
        if isinstance(given, Backend):
            return given
        fields = {"kind": given} if isinstance(given, str) else dict(given or {})
        return validate(cls, fields, "backend")

    @property
    def threads(self) -> int | None:
        """Threads of a run that does not say how many; None: PyTorch's choice.

        With workers side by side it is what one hospital's CPUs can run: more would cost several times more.
        """
        return None if self.kind == "local" else max(1, int(self.cpus))

    @property
    def cluster(self) -> str | None:
        """The address of the cluster to attach to; None for a Ray of our own."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    @contextmanager
    def open(self) -> Iterator[Place]:
        """Go there, and tidy up afterwards. Raises FedMergeError where Ray is missing or not reached."""
        if self.kind == "local":
            yield HERE
            return
        from fedmerge.federation.grids.ray.place import ray_place

        with ray_place(self) as place:
            yield place


Where: TypeAlias = "Place | Backend | str | Mapping[str, Any] | None"
"""A place that is there already, or what ``Backend.of`` takes."""


@contextmanager
def go_to(where: Where) -> Iterator[tuple[Place, int | None]]:
    """The place for a run, as long as the block takes, and its number of threads where it has one."""
    if where is None or isinstance(where, Backend | str | Mapping):
        backend = Backend.of(where)
        with backend.open() as place:
            yield place, backend.threads
    else:
        yield where, None


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
