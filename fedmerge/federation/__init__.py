"""Federation: who talks to whom. The only room that imports Flower.

``client`` is what a hospital answers, ``asking`` how it is asked and its answer checked, ``strategy`` what a
round is, ``server`` what the server does in a run, ``options`` what a user may choose. ``grids`` carry
messages (``places`` says which), ``flower`` is for Flower's own runtimes, ``deployment`` for a real one, and
``arrays`` lends tensors to messages without a copy.
``aggregators`` make one model of many, ``privacy`` hides them, ``sums`` are a fusion whose images stay in the
hospitals, ``fault_plan`` and ``faults`` what may go wrong. Flower's telemetry and update check are switched
off before it is imported; it is imported when first used, because that takes a second.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

if TYPE_CHECKING:
    from fedmerge.federation.backend import Backend
    from fedmerge.federation.client import client_app
    from fedmerge.federation.failures import Failure
    from fedmerge.federation.flower import client_of, server_of
    from fedmerge.federation.grids.local import LocalGrid, simulate
    from fedmerge.federation.hospital import Hospital
    from fedmerge.federation.options import FederationOptions
    from fedmerge.federation.places import HERE, Place, Where, go_to
    from fedmerge.federation.plan import Plan
    from fedmerge.federation.server import Server, server_app
    from fedmerge.federation.strategy import MergeStrategy

_HOMES = {
    "Backend": "backend",
    "Failure": "failures",
    "FederationOptions": "options",
    "HERE": "places",
    "Hospital": "hospital",
    "LocalGrid": "grids.local",
    "MergeStrategy": "strategy",
    "Place": "places",
    "Plan": "plan",
    "Server": "server",
    "Where": "places",
    "client_app": "client",
    "client_of": "flower",
    "go_to": "places",
    "server_app": "server",
    "server_of": "flower",
    "simulate": "grids.local",
}

__all__ = [
    "HERE",
    "Backend",
    "Failure",
    "FederationOptions",
    "Hospital",
    "LocalGrid",
    "MergeStrategy",
    "Place",
    "Plan",
    "Server",
    "Where",
    "client_app",
    "client_of",
    "go_to",
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
