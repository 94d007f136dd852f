"""Ray as a backend: the hospitals' images go to the workers, and a ServerApp runs over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedmerge.cluster.attach import ray_initialised
from fedmerge.cluster.config import BackendConfig
from fedmerge.data import Site, Split
from fedmerge.plugins import load_module, loaded_plugins

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from fedmerge.federation.grids.ray.pool import Pool


@contextmanager
def ray_backend(backend: BackendConfig) -> Iterator[RayBackend]:
    """Attach to Ray or start it, and yield the backend; workers, and a Ray started here, end with the block.

    A Ray that the calling program has initialised is used and left as it is.
    """
    with ray_initialised(backend):
        opened = RayBackend(backend)
        try:
            yield opened
        finally:
            opened.close()


class RayBackend:
    """The Ray backend (``backends.Backend``). Workers start with its first federation and serve all."""

    def __init__(self, backend: BackendConfig) -> None:
        self._backend = backend
        self._pool: Pool | None = None
        where = f"of the Ray cluster at {backend.cluster}" if backend.cluster else "of Ray on this machine"
        self.words = f"{'' if backend.workers is None else backend.workers} workers {where}".strip()

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Run ``app`` with one hospital per site, in the workers."""
        from fedmerge.federation.grids.ray.grid import RayGrid
        from fedmerge.federation.simulated import serve

        pool = self._workers(device, len(sites))
        where = "cuda" if pool.on_gpu else device

        def show(number: int, done: int, total: int) -> None:
            if progress is not None:
                progress(sites[number].name, done, total)

        grid = RayGrid(
            pool,
            [OpenHospital.of(site, where) for site in sites],
            [float(len(site.train)) for site in sites],
            progress=None if progress is None else show,
        )
        serve(app, grid)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _workers(self, device: str, hospitals: int) -> Pool:
        from fedmerge.federation.grids.ray.pool import Pool

        wanted = min(hospitals, self._backend.workers or hospitals)
        if self._pool is not None and self._pool.count < wanted:
            self.close()
        if self._pool is None:
            self._pool = Pool(self._backend, device, hospitals)
        return self._pool


@dataclass(frozen=True)
class OpenHospital:
    """A hospital's training and validation images, packed for the worker that will run it.

    They are numpy arrays here, because those are shared through the object store, not copied. The test images
    stay with the server: no request is about them. plugins: those of the server's process, with the
    code of files; the worker imports them again.
    """

    site: Site
    splits: tuple[tuple[np.ndarray | None, ...], ...]
    device: str
    plugins: Mapping[str, bytes | None] = field(default_factory=dict)

    @classmethod
    def of(cls, site: Site, device: str) -> OpenHospital:
        """Pack a site."""
        nothing = site.train.select(torch.arange(0))
        bare = replace(site, train=nothing, val=nothing, test=nothing)
        return cls(bare, tuple(map(_pack, (site.train, site.val))), device, loaded_plugins())

    def __call__(self, progress: Callable[[int, int], None]) -> ClientApp:
        """Return the ClientApp of this hospital, in the worker's process."""
        from fedmerge.federation.hospital.app import client_app
        from fedmerge.federation.hospital.hospital import Hospital

        for plugin, source in self.plugins.items():
            load_module(plugin, source)
        train, val = (_unpack(arrays) for arrays in self.splits)
        hospital = Hospital(replace(self.site, train=train, val=val), self.device, progress)
        return client_app(lambda context: hospital, memory_in_context=True)


def _pack(split: Split) -> tuple[np.ndarray | None, ...]:
    groups = None if split.groups is None else split.groups.numpy()
    return split.images.numpy(), split.labels.numpy(), groups


def _unpack(arrays: tuple[np.ndarray | None, ...]) -> Split:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images, labels, groups = (None if array is None else torch.from_numpy(array) for array in arrays)
    assert images is not None
    assert labels is not None
    return Split(images, labels, groups)
