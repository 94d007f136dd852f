"""A cluster is reached and asked for its token before Ray is: a server that speaks gRPC stands for it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from facts import refused

from fedmerge.cluster import access
from fedmerge.cluster.access import MODE, admit, check_same, reach, refuses
from fedmerge.errors import FedMergeError

grpc = pytest.importorskip("grpc")
GCS, CLIENT = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"


RAYLETS = access._raylets


class Cluster(grpc.GenericRpcHandler):
    """One call is known; a closed one refuses it without the token ``abc``, an open one answers."""

    def __init__(self, method, closed):
        self.method, self.closed = method, closed

    def service(self, call):
        if call.method != self.method:
            return None

        def answer(request, context):
            if self.closed and ("authorization", "Bearer abc") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def serving():
    """Start a cluster and return its HOST:PORT."""
    servers = []

    def start(method=GCS, closed=True):
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((Cluster(method, closed),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


@pytest.fixture(autouse=True)
def shell(tmp_path, monkeypatch):
    """A fresh shell: no variable of Ray's, a home of its own."""
    for name in (MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(access, "_running", set)
    monkeypatch.setattr(access, "_raylets", lambda: [[]])
    modes = []
    monkeypatch.setattr(access, "set_mode", modes.append)
    return modes


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(("method", "client"), [(GCS, False), (CLIENT, True)])
def test_a_cluster_says_whether_it_asks_for_a_token(serving, method, client, closed):
    address = serving(method, closed)
    assert refuses(address, client=client) == closed
    assert refuses(address, "abd", client=client) == closed
    assert not refuses(address, "abc", client=client)


@pytest.mark.parametrize("mode", [None, "token"])
@pytest.mark.parametrize("own", ["", "another"])
def test_without_the_right_token_ray_is_not_even_tried(serving, shell, tmp_path, monkeypatch, mode, own):
    if mode:
        monkeypatch.setenv(MODE, mode)
    if own:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(own)
    for address in (serving(), f"ray://{serving(CLIENT)}"):
        with refused(address, "token", "another", "~/.ray/auth_token"):
            admit(address)
    assert shell == []


def test_the_token_is_found_where_ray_keeps_it(serving, shell, tmp_path, monkeypatch):
    address = serving()
    with pytest.raises(FedMergeError) as caught:
        admit(address)
    for fact in (address, "asks for a token", "~/.ray/auth_token", "RAY_AUTH_TOKEN_PATH", MODE):
        assert fact in str(caught.value)
    assert shell == []
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    assert admit(address) == address
    assert shell == [{MODE: "token"}]
    (tmp_path / ".ray" / "auth_token").unlink()
    (tmp_path / "elsewhere").write_text("abc")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    admit(address)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    admit(address)
    assert len(shell) == 3


def test_an_open_cluster_needs_no_token_and_a_closed_one_refuses_who_sends_none(
    serving, shell, tmp_path, monkeypatch
):
    """With tokens disabled here Ray would send none, and try for half a minute, or more."""
    admit(serving(closed=False))
    monkeypatch.setenv(MODE, "disabled")
    admit(serving(closed=False))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    with refused("token", f"{MODE}=token"):
        admit(serving())
    assert shell == []


def test_auto_is_the_noted_cluster_or_the_only_one_and_else_a_sentence(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    first, second = serving(closed=False), serving(closed=False)
    with refused("Ray", "cluster", "machine"):
        reach("auto")
    monkeypatch.setattr(access, "_running", lambda: {first})
    assert reach("auto") == first
    assert admit("auto") == first
    monkeypatch.setattr(access, "_running", lambda: {first, second})
    with pytest.raises(FedMergeError) as several:
        reach("auto")
    assert first in str(several.value)
    assert second in str(several.value)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(second)
    assert reach("auto") == second


def test_where_nobody_listens_it_is_said_at_once(serving):
    with refused("Ray", "cluster", "127.0.0.1", "1"):
        reach("ray://127.0.0.1:1")


def test_a_machine_that_is_no_node_is_told_to_join_because_ray_would_abort_there(
    serving, tmp_path, monkeypatch
):
    """A container's node whose socket does not lie here is no node of this machine."""
    here = [SimpleNamespace(info={"name": "raylet", "cmdline": [f"{access.SOCKET}{tmp_path / 'socket'}"]})]
    monkeypatch.setattr(access, "_raylets", RAYLETS)
    monkeypatch.setattr(access.psutil, "process_iter", lambda about: here)
    address, for_clients = serving(closed=False), serving(CLIENT, closed=False)
    with refused(address, f"ray start --address={address}", "ray://"):
        admit(address)
    assert admit(f"ray://{for_clients}") == f"ray://{for_clients}"
    (tmp_path / "socket").touch()
    assert admit(address) == address


def test_where_a_program_has_initialised_ray_another_address_is_refused():
    """A node knows its head by another address of the machine, a client by another port."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        here = f"127.0.0.1:{head.getsockname()[1]}"
        for there, address in (
            (here, here),
            (f"10.9.8.7:{head.getsockname()[1]}", here),
            ("127.0.0.1:1", f"ray://{here}"),
        ):
            check_same(there, address)
        with refused("127.0.0.1:1", here, "ray.shutdown()"):
            check_same("127.0.0.1:1", here)
    with refused(here, "answers"):
        check_same(here, here)
