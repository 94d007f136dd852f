"""Federation: who talks to whom. The only room that imports Flower.

``client`` is what a hospital answers, ``strategy`` what a round is, ``server`` what the server does in a
run, ``local_grid`` carries messages inside one process. Flower's telemetry and update check are switched
off before it is imported.
"""

import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from fedmerge.federation.client import client_app
from fedmerge.federation.local_grid import LocalGrid, simulate
from fedmerge.federation.plan import Plan
from fedmerge.federation.server import Server, server_app
from fedmerge.federation.strategy import Failure, MergeStrategy

logging.getLogger("flwr").setLevel(logging.WARNING)  # after its import, which sets a level of its own

__all__ = ["Failure", "LocalGrid", "MergeStrategy", "Plan", "Server", "client_app", "server_app", "simulate"]
