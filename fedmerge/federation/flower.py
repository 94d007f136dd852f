"""Flower's own runtimes, simulation and deployment: the two apps of a project, and its Grid as a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmerge.data import Site
from fedmerge.federation.client import Hospital, client_app

Config = Mapping[str, Any]


class Backend(Protocol):
    """A place with hospitals in it, where a ServerApp can run."""

    def simulate(
        self,
        app: ServerApp,
        sites: Sequence[Site],
        *,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Run ``app`` with one hospital a site until its main function returns; see ``simulate``."""


@dataclass(frozen=True)
class FlowerBackend:
    """The Grid that Flower's runtime handed to a ServerApp.

    The hospitals are nodes of their own: they have their images and choose their device, and their progress
    is not seen here.
    """

    remote: ClassVar[bool] = True

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
        app(grid=self.grid, context=self.context)


def server_of(main: Callable[[Backend, Config], None]) -> ServerApp:
    """The ServerApp of a project: ``main(backend, run_config)`` with Flower's Grid as the backend."""
    app = ServerApp()

    @app.main()
    def _main(grid: Grid, context: Context) -> None:
        main(FlowerBackend(grid, context), context.run_config)

    return app


def client_of(hospital: Callable[[Config, Config], Hospital]) -> ClientApp:
    """The ClientApp of a project: ``hospital(node_config, run_config)`` says for whom a node speaks.

    Each message may meet another process, so what a hospital keeps between rounds is kept by its node.
    """
    return client_app(
        lambda context: hospital(context.node_config, context.run_config), memory_in_context=True
    )
