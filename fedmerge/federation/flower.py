"""Flower's own runtimes, simulation and deployment: the two apps of a project, and its Grid as a place."""

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
from fedmerge.federation.backends import Backend
from fedmerge.federation.deployment.links import lost
from fedmerge.federation.grids.audited import AuditedGrid
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.hospital import Hospital
from fedmerge.federation.hospital_app import client_app

Config = Mapping[str, Any]
DATABASE = "superlink.db"  # of a deployment's server, beside the file of its hospitals


@dataclass(frozen=True)
class FlowerPlace:
    """The Grid that Flower's runtime handed to a ServerApp.

    The hospitals are nodes of their own: they have their images and choose their device, and their progress
    is not seen here.
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
        """Run ``app`` on this grid."""
        grid = self.grid if isinstance(self.grid, FlowerGrid) else FlowerGrid(self.grid)
        app(grid=grid, context=self.context)


def server_of(main: Callable[[Backend, Config], None]) -> ServerApp:
    """The ServerApp of a project: ``main(place, run_config)`` with Flower's Grid as the place.

    In a deployment, the audit log of the server's folder says what was sent and what came.
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
    """The ClientApp of a project: ``hospital(node_config, run_config)`` says for whom a node speaks.

    Each message may meet another process, so what a hospital keeps between rounds is kept by its node.
    """
    return client_app(
        lambda context: hospital(context.node_config, context.run_config), memory_in_context=True
    )


def _deployed(grid: Grid, admitted: Path, context: Context) -> AuditedGrid:
    """The grid of a deployment: a node that is started anew is waited for, as hospitals are at the start."""
    away = float(context.run_config.get("patience", 0.0))
    return AuditedGrid(
        grid, admitted.parent, context.run_id, away, partial(lost, admitted.with_name(DATABASE))
    )


def end_with_parent(pause: float = 1.0) -> None:
    """End this process, as SIGTERM does, when the one that started it is gone.

    A SuperLink that is killed leaves the server's app behind, which goes on alone for as long as it does not
    ask for anything, and keeps the run from being taken up.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
