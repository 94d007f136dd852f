"""A server up, with SuperLink and gate, and programs that end with their test."""

import os

import pytest

from fedmerge.federation.deployment.processes import Programs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port, start_server
from tests.experiment.deployed.nodes import ROOT


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For all programs; they inherit the environment."""
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    yield
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """SuperLink and gate, up."""
    path = tmp_path_factory.mktemp("deployment") / "server"
    folder = ServerFolder.make(path, ["127.0.0.1"], "127.0.0.1", free_port(), free_port())
    with Programs() as programs:
        up = start_server(programs, folder)
        yield folder
        assert [program.running for program in up] == [True, True]


@pytest.fixture
def programs():
    with Programs() as started:
        yield started
