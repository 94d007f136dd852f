"""Federation: server, clients and the messages between them. The only package that imports Flower.

``plan`` is what a user may choose, ``messages`` the schema of all that is sent, ``hospital`` answers,
``server`` asks and makes one model of many updates by one of the ``aggregators``. ``privacy`` has the
mechanisms that both share, ``policy`` a hospital's own rules. ``grids`` carry messages, ``flower`` is for
Flower's own runtimes, ``deployment`` for hospitals on machines of their own. ``arrays`` puts tensors into
messages without a copy, ``packing`` sums. Flower's telemetry and update check are switched off before its
import; it is imported at first use, because that takes a second.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

if TYPE_CHECKING:
    from fedmerge.federation.flower import client_of, server_of
    from fedmerge.federation.grids.backends import LOCAL, Backend, BackendLike, open_backend
    from fedmerge.federation.grids.local import LocalGrid, simulate
    from fedmerge.federation.hospital.app import client_app
    from fedmerge.federation.hospital.hospital import Hospital
    from fedmerge.federation.plan.options import FederationOptions
    from fedmerge.federation.plan.plan import FederationPlan
    from fedmerge.federation.server.failures import Failure
    from fedmerge.federation.server.server import Server, server_app
    from fedmerge.federation.server.strategy import MergeStrategy

_HOMES = {
    "Failure": "server.failures",
    "FederationOptions": "plan.options",
    "LOCAL": "grids.backends",
    "Hospital": "hospital.hospital",
    "LocalGrid": "grids.local",
    "MergeStrategy": "server.strategy",
    "Backend": "grids.backends",
    "FederationPlan": "plan.plan",
    "Server": "server.server",
    "BackendLike": "grids.backends",
    "client_app": "hospital.app",
    "client_of": "flower",
    "open_backend": "grids.backends",
    "server_app": "server.server",
    "server_of": "flower",
    "simulate": "grids.local",
}

__all__ = [
    "LOCAL",
    "Backend",
    "BackendLike",
    "Failure",
    "FederationOptions",
    "FederationPlan",
    "Hospital",
    "LocalGrid",
    "MergeStrategy",
    "Server",
    "client_app",
    "client_of",
    "open_backend",
    "server_app",
    "server_of",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedmerge.federation' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"fedmerge.federation.{_HOMES[name]}"), name)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # after Flower's import sets its own
    return found
