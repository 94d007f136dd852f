"""Federation: server, clients and the messages between them. The only package that imports Flower.

``hospital_app`` answers messages in a hospital; ``client_manager`` sends requests and checks the replies.
``strategy`` is a round, ``server`` a run, ``options`` what a user may choose. ``grids`` carry messages
(``backends`` chooses the grid), ``flower`` is for Flower's own runtimes, ``deployment`` for hospitals on
machines of their own. ``arrays`` puts tensors into messages without a copy. ``aggregators`` make one model
of many updates, ``privacy`` noises or masks updates, ``sums`` computes remote statistics for a fusion.
``fault_injection`` draws the faults of a run, ``faults`` applies them. Flower's telemetry and update check
are switched off before its import; it is imported at first use, because that takes a second.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

if TYPE_CHECKING:
    from fedmerge.federation.backends import LOCAL, Backend, BackendLike, open_backend
    from fedmerge.federation.failures import Failure
    from fedmerge.federation.flower import client_of, server_of
    from fedmerge.federation.grids.local import LocalGrid, simulate
    from fedmerge.federation.hospital import Hospital
    from fedmerge.federation.hospital_app import client_app
    from fedmerge.federation.options import FederationOptions
    from fedmerge.federation.plan import FederationPlan
    from fedmerge.federation.server import Server, server_app
    from fedmerge.federation.strategy import MergeStrategy

_HOMES = {
    "Failure": "failures",
    "FederationOptions": "options",
    "LOCAL": "backends",
    "Hospital": "hospital",
    "LocalGrid": "grids.local",
    "MergeStrategy": "strategy",
    "Backend": "backends",
    "FederationPlan": "plan",
    "Server": "server",
    "BackendLike": "backends",
    "client_app": "hospital_app",
    "client_of": "flower",
    "open_backend": "backends",
    "server_app": "server",
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
