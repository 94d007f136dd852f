"""A server and hospitals of secure rounds, and what a test looks at in them."""

import torch

from fedmerge.federation import Server, client_app
from fedmerge.federation.hospital.hospital import Hospital
from tests.federation.secure.watched import Watched


def ward(plan, sites, folders=None, contexts=False):
    """A server and its hospitals. folders: of nodes, by site. contexts: a new process for every message."""
    folders = folders or {}
    kept = [Hospital(site, folder=folders.get(site.name)) for site in sites]

    def hospital_of(context):
        i = int(context.node_config["partition-id"])
        return Hospital(sites[i], folder=folders.get(sites[i].name)) if contexts else kept[i]

    return Server(Watched(client_app(hospital_of, memory_in_context=contexts), len(sites)), plan)


def rows(server, phase):
    return [row for row in server.strategy.history if row["phase"] == phase]


def check_close(found, expected):
    """Two rounds of rounding to 2^-31, which training may enlarge."""
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)
