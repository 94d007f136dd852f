"""Tiny federations shared by the tests: images drawn here, no download, milliseconds to train."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from fedmerge.data import Arrays, Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.plugins import unload_plugins
from tests.made_up_images import quarters

torch.set_num_threads(1)

# A law holds or does not hold; how fast this machine is, and who else is using it, is no part of it.
settings.register_profile("fedmerge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedmerge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``slow``, minutes of real processes, but where FEDMERGE_SLOW is set."""
    if os.environ.get("FEDMERGE_SLOW"):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="minutes of real processes: `make test-slow` runs it"))


def bright_quarters(n: int, seed: int, offset: int = 0) -> Arrays:
    """8 x 8 grey images of three classes: class c is bright in quarter c, over noise; separable."""
    return Arrays(*quarters(np.random.default_rng(seed), n, offset=offset))


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs keep for a user is kept in a folder of the tests, also by processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    """What a test plugs in is gone after it."""
    yield
    unload_plugins()


@pytest.fixture
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without their pictures, which take seconds; marked ``pictures``, with them."""
    if request.node.get_closest_marker("pictures") is None:
        blank = "data:image/svg+xml;base64,"
        monkeypatch.setattr("fedmerge.reports.page.image_of", lambda *what, **options: blank)


@pytest.fixture
def cohort_spec() -> CohortSpec:
    """Three hospitals that train and one unseen; each its own brightness."""
    sites = [
        SiteSpec(name=name, source=bright_quarters(60, seed, offset=20 * seed), unseen=name == "delta")
        for seed, name in enumerate(["alpha", "beta", "gamma", "delta"])
    ]
    return CohortSpec(name="quarters", title="Bright quarters", sites=tuple(sites))


@pytest.fixture
def cohort(cohort_spec: CohortSpec) -> Cohort:
    return build_cohort(cohort_spec, seed=0)


@pytest.fixture
def experiment(cohort_spec: CohortSpec) -> dict[str, Any]:
    """A whole experiment that takes about a second."""
    return {
        "name": "tiny",
        "cohort": cohort_spec,
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "training": {
            "rounds": 2,
            "epochs": 1,
            "lr": 0.05,
            "batch_size": 12,
            "fine_tune": {"epochs": 1, "lr": 0.02},
        },
        "fusion": ["mean", "greedy", "ensemble-logits", "ensemble-features"],
        "testtime": ["entropy-adaptive"],
        "evaluation": {"batch_size": 16, "streams": ["iid", {"dirichlet": 0.5}, "temporal"]},
    }


@pytest.fixture(scope="session")
def own_ray() -> Iterator[Any]:
    """One Ray for all tests of this process, with room for four workers; ended after the last."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedmerge[ray]'")
    from fedmerge.cluster.attach import ray_initialised
    from fedmerge.cluster.config import BackendConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for made-up tasks
        with ray_initialised(BackendConfig(kind="ray", workers=4)):
            yield ray
