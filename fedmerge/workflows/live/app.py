"""The page of a run or a study at work, and its state as JSON: read only, for this machine alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.ago import ago
from fedmerge.federation.deployment.local_page import HEADERS, HOSTS
from fedmerge.workflows.live.curves import HEIGHT, WIDTH, charts

HERE = Path(__file__).parent


def live_app(status: Callable[[], dict[str, Any]], clock: Callable[[float], str]) -> Starlette:
    """Return an ASGI app that shows ``status()`` (``live_status``) at ``/`` and ``/status.json``, read-only.

    clock: seconds in words. The page loads nothing from elsewhere; its one script fetches it again every few
    seconds, and without scripts the browser does. It says so where the folder cannot be read.
    """
    script = (HERE / "live.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("live.html")
    headers = HEADERS | {"Content-Security-Policy": policy}

    def page(request: Request) -> Response:
        told, fault = _now(status)
        drawn = [
            {"name": each["name"], "charts": charts(each["rows"])}
            for each in (told or {"curves": []})["curves"]
        ]
        shown = template.render(
            status=told,
            fault=fault,
            drawn=drawn,
            script=script,
            ago=ago,
            clock=clock,
            width=WIDTH,
            height=HEIGHT,
        )
        return HTMLResponse(shown, 200 if told else 503, headers)

    def as_json(request: Request) -> Response:
        told, fault = _now(status)
        return JSONResponse(told or {"error": fault}, 200 if told else 503, headers)

    routes = [Route("/", page), Route("/status.json", as_json)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def _now(status: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
    """Return the state, or why it cannot be had."""
    try:
        return status(), ""
    except FedMergeError as error:
        return None, str(error)
    except (OSError, ValueError) as error:
        return None, f"the folder cannot be read just now ({error})."
