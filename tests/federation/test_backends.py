"""A place is described in a few words; what cannot be is said in a sentence, and at once."""

import socket
import sys
import time

import pytest
from facts import refused

import fedmerge as fm
from fedmerge.cluster.config import BackendConfig
from fedmerge.federation.grids.backends import open_backend


def test_a_backend_is_local_unless_said_otherwise():
    assert BackendConfig.of(None) == BackendConfig.of("local") == BackendConfig()
    assert BackendConfig.of({"kind": "ray", "workers": 2}) == BackendConfig(kind="ray", workers=2)
    assert BackendConfig.of(BackendConfig(kind="ray")).kind == "ray"


def test_a_run_s_threads_are_what_a_worker_s_cpus_can_run():
    assert [BackendConfig(kind="ray", cpus=cpus).threads for cpus in (0.25, 1, 3)] == [1, 1, 3]
    assert BackendConfig().threads is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("rai", ("kind", "field", "rai")),
        ({"workers": 3}, ("workers", 3, "local")),
        ({"kind": "ray", "workers": 0}, ("workers", "field")),
        ({"kind": "ray", "address": "somewhere"}, ("somewhere", "address", "auto", "HOST:PORT")),
        ({"kind": "ray", "nodes": 3}, ("nodes",)),
    ],
)
def test_what_is_no_backend_is_a_sentence(given, sentence):
    with refused(*sentence):
        BackendConfig.of(given)


@pytest.mark.parametrize("address", ["auto", "head:6379", "10.0.0.1:6379", "ray://head:10001"])
def test_addresses_of_a_cluster(address):
    assert BackendConfig(kind="ray", address=address).cluster == address


def test_ray_s_environment_variable_names_the_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert BackendConfig(kind="ray").cluster == "head:6379"
    assert BackendConfig(kind="ray", address="auto").cluster == "auto"


def test_without_ray_the_sentence_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("fedmerge[ray]", "pip", "install"), open_backend("ray"):
        pass


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_nobody_answers_is_said_within_seconds_and_nothing_is_written(
    form, experiment, tmp_path, monkeypatch
):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedmerge[ray]'")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with refused("Ray", "cluster", "127.0.0.1", port):
        fm.run(
            experiment,
            out=tmp_path / "run",
            backend={"kind": "ray", "address": form.format(port)},
        )
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()
