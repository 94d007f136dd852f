"""The status of a deployment as a page, as JSON, and for Prometheus: only on this machine, read-only.

The page loads nothing from elsewhere, runs no script, and reloads itself every ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fedmerge.federation.deployment.ago import ago
from fedmerge.federation.deployment.local_page import HEADERS, HOSTS

Told = dict[str, Any]
STATES = ("running", "finished", "failed", "stopped", "killed", "resumed", "pending", "starting", "unknown")
KINDS = {"finished": "good", "running": "good", "failed": "bad", "killed": "bad"}


def watch_app(status: Callable[[], Told]) -> Starlette:
    """Return an ASGI app that shows ``status()`` at ``/``, ``/status.json`` and ``/metrics``, read-only."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)

    def page(request: Request) -> Response:
        return HTMLResponse(template.render(status=status(), ago=ago, kinds=KINDS), headers=HEADERS)

    def as_json(request: Request) -> Response:
        return JSONResponse(status(), headers=HEADERS)

    def prometheus(request: Request) -> Response:
        return Response(metrics(status()), headers=HEADERS | {"Content-Type": CONTENT_TYPE_LATEST})

    routes = [Route("/", page), Route("/status.json", as_json), Route("/metrics", prometheus)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def metrics(status: Told) -> bytes:
    """Return the state of a server in Prometheus' format."""
    registry = CollectorRegistry()

    def gauge(name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"fedmerge_{name}", what, labels, registry=registry)

    gauge("server_up", "Whether all programs of the server run.").set(status["up"])
    online = gauge("hospital_online", "Whether a hospital's node is there.", "hospital")
    heard = gauge("hospital_last_seen_seconds", "Seconds since its last sign of life.", "hospital")
    failures = gauge("hospital_failures", "Its failures in the latest run.", "hospital")
    waiting = gauge(
        "hospital_waits_for_approval", "Whether the latest run waits for its approval.", "hospital"
    )
    for hospital in status["hospitals"]:
        name = hospital["name"]
        online.labels(name).set(hospital["status"] == "online")
        failures.labels(name).set(hospital["failures"])
        waiting.labels(name).set(name in status["waiting"])
        if hospital["ago"] is not None:
            heard.labels(name).set(hospital["ago"])
    state = gauge("run_state", "1 for the state that a run is in.", "run", "state")
    at = gauge("run_round", "The round at work.", "run")
    rounds = gauge("run_rounds", "The rounds of a run.", "run")
    failed = gauge("run_failures", "Failures of hospitals in a run.", "run")
    for run in status["runs"]:
        number = str(run["run"])
        for word in STATES:
            state.labels(number, word).set(run["state"] == word)
        failed.labels(number).set(run["failed"])
        for measure, key in ((at, "round"), (rounds, "rounds")):
            if run[key] is not None:
                measure.labels(number).set(run[key])
    days = gauge("certificate_days_left", "Days until a certificate ends.", "certificate")
    for each in status["expiries"]:
        days.labels(each["what"]).set(each["days"])
    return generate_latest(registry)
