"""Flower's own runtimes, simulation and deployment: the two apps of a project, and its Grid as a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmerge.data import Site
from fedmerge.federation.client import Hospital, client_app
from fedmerge.federation.grids.audited import AuditedGrid
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.places import Place

Config = Mapping[str, Any]


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


def server_of(main: Callable[[Place, Config], None]) -> ServerApp:
    """The ServerApp of a project: ``main(place, run_config)`` with Flower's Grid as the place.

    In a deployment, the audit log of the server's folder says what was sent and what came.
    """
    app = ServerApp()

    @app.main()
    def _main(grid: Grid, context: Context) -> None:
        admitted = str(context.run_config.get("admitted", ""))
        heard = AuditedGrid(grid, Path(admitted).parent, context.run_id) if admitted else grid
        main(FlowerPlace(heard, context), context.run_config)

    return app


def client_of(hospital: Callable[[Config, Config], Hospital]) -> ClientApp:
    """The ClientApp of a project: ``hospital(node_config, run_config)`` says for whom a node speaks.

    Each message may meet another process, so what a hospital keeps between rounds is kept by its node.
    """
    return client_app(
        lambda context: hospital(context.node_config, context.run_config), memory_in_context=True
    )
