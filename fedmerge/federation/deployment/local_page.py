"""What pages for this machine alone share: headers, the names that they answer to, how they are served."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedmerge.errors import FedMergeError

if TYPE_CHECKING:
    from starlette.applications import Starlette

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
HOSTS = ["127.0.0.1", "localhost", "[::1]"]
"""The host names that a page answers to, so that a foreign name that leads to this machine fails."""


def serve_here(app: Starlette, port: int, ready: Callable[[str], Any]) -> None:
    """Serve an app at 127.0.0.1 until Ctrl-C. port: 0 for any. ready: told the address before it answers.

    Raises FedMergeError where the port is in use.
    """
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            raise FedMergeError(f"port {port} is in use: choose another with --port.") from None
        ready(f"http://127.0.0.1:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app, log_level="warning", ws="none", server_header=False, timeout_graceful_shutdown=2
        )
        try:
            uvicorn.Server(config).run([listening])
        except KeyboardInterrupt:  # uvicorn has ended in order, and raises it again
            return
