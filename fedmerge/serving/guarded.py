"""Refuse calls that a foreign web page makes through a browser, and keep answers out of frames and caches."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOCAL = ("127.0.0.1", "localhost", "::1")


class Guarded:
    """An ASGI middleware. hosts: the names under which the service may be called; None: any.

    Without names, a page whose foreign name leads to this machine could call a service that asks for no
    token.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if fault := self._fault(Headers(scope=scope), scope["scheme"]):
            await JSONResponse({"error": fault}, 403)(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)

    def _fault(self, headers: Headers, scheme: str) -> str:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if self.hosts is not None and name not in self.hosts:
            return f"this service is not called '{name[:100]}': use {' or '.join(self.hosts)}."
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}":
            return "this call comes from another site's page, and only the service's own may call it."
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign and headers.get("sec-fetch-mode") != "navigate":  # a link to the page is no harm
            return "this call comes from another site's page, and only the service's own may call it."
        return ""
