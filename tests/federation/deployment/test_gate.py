"""The gate passes on what hospitals ask, bit for bit, and nothing else, whatever a path is dressed up as."""

import asyncio
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedmerge.federation.deployment.folders import ServerFolder
from fedmerge.federation.deployment.gate import gate
from fedmerge.federation.deployment.serving import free_port

ASKED = []


async def answer(request: Request) -> Response:
    """Says what it was asked, turned round."""
    ASKED.append(request.url.path)
    body = await request.body()
    return Response(body[::-1], 207, {"x-seen": request.headers.get("flwr-signature", "none")})


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A stand-in for a SuperLink, with TLS; yields the gate's app before it."""
    path = tmp_path_factory.mktemp("gate") / "server"
    folder = ServerFolder.make(path, ["localhost"], "127.0.0.1", free_port(), free_port())
    certificate, key = folder.certificate
    app = Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=folder.settings.superlink_port, log_level="error",
        ssl_certfile=str(certificate), ssl_keyfile=str(key),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield folder
    server.should_exit = True
    thread.join()


def ask(folder, method, path, **more):
    """One question to the gate, as it comes over the wire."""

    async def asking():
        transport = httpx.ASGITransport(gate(folder.superlink, folder.authority))
        async with httpx.AsyncClient(transport=transport, base_url="https://gate") as client:
            request = client.build_request(method, "/", **more)
            request.url = request.url.copy_with(raw_path=path.encode())
            return await client.send(request)

    return asyncio.run(asking())


def test_a_hospital_s_call_passes_with_its_headers_and_the_answer_comes_back(behind):
    body = bytes(range(256)) * 4096
    told = ask(behind, "POST", "/v1/fleet/push-object", content=body, headers={"flwr-signature": "abc"})
    assert (told.status_code, told.content, told.headers["x-seen"]) == (207, body[::-1], "abc")
    assert ASKED[-1] == "/v1/fleet/push-object"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/",
        "/v1/fleet/push-object/",
        "/V1/FLEET/push-object",
        "/v1/fleet/push-object?x=/../control",
        "//v1/control/start-run",
        "/docs",
        "/",
    ],
)
def test_nothing_else_reaches_the_superlink(behind, path):
    """A query is dropped; all other paths are not found."""
    seen = len(ASKED)
    told = ask(behind, "POST", path)
    if "?" in path:
        assert ASKED[-1] == "/v1/fleet/push-object"
    else:
        assert told.status_code in (404, 307)
        assert len(ASKED) == seen


def test_only_post_passes(behind):
    assert ask(behind, "GET", "/v1/fleet/push-object").status_code == 405


def test_a_superlink_that_is_down_is_said_to_be(behind, tmp_path):
    closed = ServerFolder.make(tmp_path / "server", ["localhost"], "127.0.0.1", free_port(), free_port())
    told = ask(closed, "POST", "/v1/fleet/pull-messages")
    assert (told.status_code, told.text) == (502, "the SuperLink does not answer")
