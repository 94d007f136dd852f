"""nginx before the gate, as docs/nginx.conf has it: hospitals are heard through it, others are not."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

from fedmerge.federation.deployment.serving import free_port

CONFIGURATION = Path(__file__).resolve().parents[3] / "docs" / "nginx.conf"
PULL = "/v1/fleet/pull-messages"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


@pytest.fixture
def before(gates, tmp_path):
    """The gate, asked through nginx."""
    gate = gates(connections_per_address=512)
    port = free_port()
    text = CONFIGURATION.read_text()
    for written, here in (
        ("listen 8000", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8010", f"127.0.0.1:{gate.folder.settings.port}"),
        ("/var/lib/fedmerge/fusion", str(gate.folder.path)),
        ("client_header_timeout 15s", "client_header_timeout 1s"),
        ("pid nginx.pid;", "pid nginx.pid; daemon off;" + (" user root;" if os.geteuid() == 0 else "")),
    ):
        assert written in text
        text = text.replace(written, here)
    (tmp_path / "nginx.conf").write_text(text)
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            through = gate.folder.settings.model_copy(update={"port": port})
            patch.setattr(gate.folder, "settings", through)
            yield gate
    finally:
        process.terminate()
        process.wait(30)


def test_hospitals_are_heard_and_others_are_not(before):
    body = PullMessagesRequest(node=Node(node_id=before.known.node)).SerializeToString()
    assert before.ask(PULL, body, before.known).content == body[::-1]
    piece = PushObjectRequest(
        node=Node(node_id=before.known.node), object_id="a", object_content=os.urandom(2**20)
    ).SerializeToString()
    assert before.ask("/v1/fleet/push-object", piece, before.known).content == piece[::-1]
    assert before.ask("/v1/gate/known", hospital=before.known).json()["name"] == "north"
    heard = len(before.superlink.asked)
    assert before.ask(PULL, body, before.stranger).status_code == 401
    assert before.ask(PULL, body).status_code == 401
    assert before.ask(PULL, body, before.known, method="PUT").status_code == 405
    for path in ("/v1/control/start-run", "/v1/fleet/../control/start-run", "/v1/fleet/..%2fcontrol", "/"):
        assert before.ask(path, body, before.known).status_code in (400, 404)
    with before.wire() as wire:
        wire.sendall(f"POST {PULL} HTTP/1.1\r\nhost: x\r\ncontent-length: {70 * 2**20}\r\n\r\n".encode())
        assert wire.recv(100).split()[1] in (b"413", b"401")
    assert len(before.superlink.asked) == heard


def test_who_does_not_finish_a_head_is_gone(before):
    with before.wire() as wire:
        wire.sendall(b"POST / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            while wire.recv(1000):
                pass
    assert before.ask("/nowhere").status_code == 404
