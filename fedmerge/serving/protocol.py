"""Uvicorn's HTTP with two things it lacks: a time limit for heads, and who a client's certificate names."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fedmerge.serving.tokens import NAME


def timed(head_seconds: float) -> type[H11Protocol]:
    """Return the protocol class for ``uvicorn.Config(http=…)``.

    A connection that has not sent a whole head within ``head_seconds`` of its begin, or of the last answer,
    is closed; Uvicorn itself would wait for ever. ``scope["state"]["certificate"]`` is the common name of a
    client's certificate that was checked, or None.
    """

    class Timed(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.app_state = {
                **self.app_state,
                "certificate": common_name(transport.get_extra_info("peercert")),
            }
            super().connection_made(transport)
            self._expect()

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete and self.late is not None:
                self.late.cancel()
                self.late = None

        def on_response_complete(self) -> None:
            self._expect()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.late is not None:
                self.late.cancel()
            super().connection_lost(exc)

        def _expect(self) -> None:
            if self.late is not None:
                self.late.cancel()
            self.late = self.loop.call_later(head_seconds, self.transport.abort)

    return Timed


def common_name(certificate: dict[str, Any] | None) -> str | None:
    """Return the common name of a checked certificate, as ``ssl`` gives it; None where it names no client."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName" and NAME.fullmatch(value):
                return str(value)
    return None
