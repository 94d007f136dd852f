"""Servers of four hospitals, masked or in the open."""

import pytest

from fedmerge.federation import Server, client_app
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.sums.rules import SIMULATED
from fedmerge.federation.hospital.sums.session_store import SessionStore
from tests.federation.secure.statistics.asking import NAMES, RULES
from tests.federation.secure.watched import Watched
from tests.federation.trained_states import trained_state


@pytest.fixture
def states(plan):
    """A model a hospital, whose batch norms have seen something."""
    return {name: trained_state(plan, seed) for seed, name in enumerate(NAMES)}


@pytest.fixture
def ward(plan, cohort):
    """A function that makes a server of some hospitals, of which all four are there.

    folders: of nodes, by site. shelves: where a new process for each message lays things aside.
    """

    def make(masked=True, sites=None, folders=None, shelves=None, **options):
        sites = cohort.sites if sites is None else sites
        folders = folders or {}
        rules = RULES[masked].model_copy(update=options)

        def made(site):
            session_store = None if shelves is None else SessionStore(shelves / site.name)
            return Hospital(
                site, folder=folders.get(site.name), session_store=session_store, sum_rules=SIMULATED
            )

        kept = [made(site) for site in sites]

        def hospital_of(context):
            i = int(context.node_config["partition-id"])
            return kept[i] if shelves is None else made(sites[i])

        app = client_app(hospital_of, memory_in_context=shelves is not None)
        server = Server(Watched(app, len(sites)), plan.model_copy(update={"federation": rules}))
        server.kept = kept
        return server

    return make
