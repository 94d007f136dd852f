"""The server's front door: TLS, and behind it nothing but what hospitals may ask.

A SuperLink serves three interfaces on one port: the hospitals', which asks every message for a registered
key, and those of whoever starts runs, and of its own processes, which do not. Whoever reached the latter
could admit a key of his own or start a run. So the SuperLink listens on this machine alone, and the gate
passes on the hospitals' interface only.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fedmerge.federation.deployment.folders import ServerFolder

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host"}


def gate(superlink: str, authority: Path) -> Starlette:
    """An ASGI app that passes ``POST /v1/fleet/CALL`` on to ``https://SUPERLINK``; all else is not found.

    authority: the certificate that vouches for the SuperLink's.
    """
    context = ssl.create_default_context(cafile=str(authority))
    client = httpx.AsyncClient(base_url=f"https://{superlink}", verify=context, timeout=None, trust_env=False)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    async def forward(request: Request) -> Response:
        call = request.path_params["call"]
        if not re.fullmatch(r"[a-z-]+", call):  # no way round, such as ..%2Fcontrol
            return PlainTextResponse("not found", 404)
        headers = [(k, v) for k, v in request.headers.raw if k.decode().lower() not in HOP_BY_HOP]
        asked = client.build_request("POST", f"/v1/fleet/{call}", headers=headers, content=request.stream())
        try:
            answer = await client.send(asked, stream=True)
        except httpx.TransportError:
            return PlainTextResponse("the SuperLink does not answer", 502)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}

        async def body() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        return StreamingResponse(body(), answer.status_code, kept)

    return Starlette(routes=[Route("/v1/fleet/{call}", forward, methods=["POST"])], lifespan=lifespan)


def main(folder: str) -> None:
    """Serve the gate of a server's folder until the process is ended."""
    server = ServerFolder(Path(folder))
    certificate, key = server.certificate
    uvicorn.run(
        gate(server.superlink, server.authority),
        host=server.settings.host,
        port=server.settings.port,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        access_log=False,
        ws="none",
        server_header=False,
    )


if __name__ == "__main__":
    main(sys.argv[1])
