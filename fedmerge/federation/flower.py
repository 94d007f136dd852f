"""Flower's own runtimes, simulation and deployment: a project's two apps, and Flower's Grid as a backend."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmerge.data import Site
from fedmerge.federation.deployment.links import lost
from fedmerge.federation.grids.audited import AuditedGrid
from fedmerge.federation.grids.backends import Backend
from fedmerge.federation.grids.busy import be_patient
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.hospital.app import client_app
from fedmerge.federation.hospital.hospital import Hospital

Config = Mapping[str, Any]
DATABASE = "superlink.db"  # of a deployment's server, beside its admission file


@dataclass(frozen=True)
class FlowerPlace:
    """The backend over the Grid that Flower's runtime hands to a ServerApp.

    The hospitals are separate nodes: they have their images and choose their device, and their progress is
    not reported here.
    """

    remote: ClassVar[bool] = True
    words: ClassVar[str] = "nodes of Flower's runtime"

    grid: Grid
    context: Context

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Run ``app`` on this grid; the other arguments have no effect."""
        grid = self.grid if isinstance(self.grid, FlowerGrid) else FlowerGrid(self.grid)
        app(grid=grid, context=self.context)


def server_of(main: Callable[[Backend, Config], None]) -> ServerApp:
    """Return a project's ServerApp: ``main(place, run_config)`` with Flower's Grid as the backend.

    In a deployment, the audit log in the server's folder records requests and replies.
    """
    app = ServerApp()

    @app.main()
    def _main(grid: Grid, context: Context) -> None:
        end_with_parent()
        admitted = str(context.run_config.get("admitted", ""))
        heard = _deployed(grid, Path(admitted), context) if admitted else grid
        main(FlowerPlace(heard, context), context.run_config)

    return app


def client_of(hospital: Callable[[Config, Config], Hospital]) -> ClientApp:
    """Return a project's ClientApp; ``hospital(node_config, run_config)`` returns a node's hospital.

    Each message may reach another process, so the node keeps the hospital's client state.
    """
    return client_app(
        lambda context: hospital(context.node_config, context.run_config), memory_in_context=True
    )


def _deployed(grid: Grid, admitted: Path, context: Context) -> AuditedGrid:
    """Return a deployment's grid; it waits for a restarted node as long as for hospitals at the start."""
    be_patient(grid)
    away = float(context.run_config.get("patience", 0.0))
    return AuditedGrid(
        grid, admitted.parent, context.run_id, away, partial(lost, admitted.with_name(DATABASE))
    )


def end_with_parent(pause: float = 1.0) -> None:
    """End this process with SIGTERM when its parent process is gone. pause: seconds between two checks.

    A killed SuperLink leaves the server's app behind, which runs on until its next request and keeps the run
    from being resumed.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
