"""Three hospitals, a model of each, and the shares that they draw."""

import pytest

from fedmerge.data.cohort.fusion import share
from fedmerge.federation import Server, client_app
from fedmerge.federation.hospital.hospital import Hospital
from tests.federation.statistics.ward import IMAGES, NAMES, Ward, Watched
from tests.federation.trained_states import trained_state


@pytest.fixture
def open_ward(plan, cohort):
    def build_ward(**changes):
        known = plan.model_copy(update=changes)
        hospitals = [Hospital(site) for site in cohort.training]
        app = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
        grid = Watched(app, len(hospitals))
        states = {name: trained_state(known, seed) for seed, name in enumerate(NAMES)}
        shares = {name: share(cohort[name], n, "train", known.seed) for name, n in IMAGES.items()}
        return Ward(Server(grid, known), grid, hospitals, states, shares)

    return build_ward


@pytest.fixture
def ward(open_ward):
    return open_ward()
