"""The paths of a service, over HTTP, with their OpenAPI description."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fedmerge.errors import short
from fedmerge.serving.answers import Answer, Fault
from fedmerge.serving.bodies import read_body
from fedmerge.serving.guarded import Guarded
from fedmerge.serving.history import as_csv
from fedmerge.serving.kept import as_png
from fedmerge.serving.refusal import Refusal
from fedmerge.serving.service import Service, checked
from fedmerge.version import package_version

PAGE = {
    "": ("index.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}}  # fmt: skip
TAKES = {"requestBody": {"required": True, "content": {
    "multipart/form-data": FORM, "image/png": BINARY, "image/jpeg": BINARY,
    "application/dicom": BINARY, "application/octet-stream": BINARY,
}}}  # fmt: skip
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": Fault, "description": what}
    for status, what in {
        400: "not understood", 401: "no token, or an unknown one", 403: "from another site's page",
        404: "not there", 408: "too slow", 413: "too large", 415: "no image", 422: "damaged",
        503: "busy: send it again",
    }.items()
}  # fmt: skip
Stream = Annotated[str, Query(description="Your stream: batches of one scanner, in their order.")]


def make_app(service: Service, hosts: Sequence[str] | None = None) -> FastAPI:
    """Return the ASGI app of a service. hosts: the names under which it may be called; None: any."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="FedMerge node",
        version=package_version(),
        description="Merged models answer unlabelled batches. Research use, not a medical device.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    app.add_middleware(Guarded, hosts=hosts)
    _faults(app, service)
    _batches(app, service)
    _looks(app, service)
    _page(app)
    return app


def _caller(service: Service) -> Callable[[Request], Awaitable[str]]:
    async def caller(request: Request) -> str:
        _check_query(request)
        certificate = getattr(request.state, "certificate", None)
        return service.client(request.headers.get("authorization"), certificate)

    return caller


def _check_query(request: Request) -> None:
    """Raise Refusal for a name in a query that the path does not know, or twice: it would change nothing."""
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    wrong = [name for name in given if name not in known or given.count(name) > 1]
    if wrong:
        what = "is there twice" if wrong[0] in known else "is not known here"
        takes = f"this path takes {', '.join(known)}" if known else "this path takes none"
        raise Refusal(400, f"the query's '{short(wrong[0])}' {what}: {takes}.")


def _batches(app: FastAPI, service: Service) -> None:
    """Add the paths of batches and streams."""
    asking = Depends(_caller(service))

    @app.post("/v1/batches", response_model=Answer, responses=FAULTS, openapi_extra=TAKES)
    async def batches(request: Request, stream: Stream = "default", caller: str = asking) -> Response:
        """Answer a batch: one image, a DICOM file, an npz, or several files as multipart/form-data."""

        async def body() -> bytes:
            try:
                return await read_body(request.headers, request.stream(), service.limits)
            except ClientDisconnect:
                raise Refusal(400, "the body is cut short.") from None

        kind = request.headers.get("content-type", "")
        answer = await service.answer(caller, stream, kind, body)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/v1/streams/{name}/reset", status_code=204, responses=FAULTS)
    async def reset(name: str, caller: str = asking) -> None:
        """Forget what was learned of a stream: its next batch is met as the first one was."""
        await service.reset(caller, name)

    @app.delete("/v1/streams/{name}", status_code=204, responses=FAULTS)
    async def end(name: str, caller: str = asking) -> None:
        """End a stream, and free its room."""
        await service.end(caller, name)


def _looks(app: FastAPI, service: Service) -> None:
    """Add the paths that only look."""
    served, asking = service.served, Depends(_caller(service))

    @app.get("/v1/health")
    async def health() -> dict[str, Any]:
        """Say whether the service answers; the one path that needs no token."""
        fault = service.history.fault
        return {
            "status": "degraded" if fault else "ok",
            "history": fault or "kept",
            "version": package_version(),
        }

    @app.get("/v1/models", responses=FAULTS)
    async def models(caller: str = asking) -> dict[str, Any]:
        """Say which models answer, how they are used, and what a batch may be."""
        first = served.cards[0]
        return {
            "method": served.method,
            "title": served.title,
            "options": {key: value if _plain(value) else str(value) for key, value in served.options.items()},
            "coefficients": served.coefficients,
            "fingerprint": service.fingerprint,
            "device": served.device,
            "task": served.task.name,
            "class_names": served.class_names,
            "network": first.model.model_dump(),
            "normalisation": served.normalisation.to_dict(),
            "models": [
                {"name": card.name, "sha256": card.sha256, "made": card.method, "parents": card.parents}
                for card in served.cards
            ],
            "limits": service.limits.model_dump(),
            "samples": 0 if served.samples is None else len(served.samples),
            "client": caller,
        }

    @app.get("/v1/history", responses=FAULTS)
    async def history(
        stream: Annotated[str | None, Query(description="One stream alone.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        after: Annotated[int, Query(ge=0, le=2**62, description="Batches behind this id alone.")] = 0,
        format: Annotated[str, Query(pattern="^(json|csv)$")] = "json",
        caller: str = asking,
    ) -> Response:
        """Return your own batches, oldest first, as JSON or CSV; there is no image among them."""
        name = None if stream is None else checked(stream)
        rows = await service.streams.read(lambda: service.history.rows(caller, name, limit, after))
        if format == "csv":
            return Response(as_csv(rows), media_type="text/csv")
        return JSONResponse({"batches": rows})

    @app.get("/v1/samples/{number}", responses=FAULTS)
    async def sample(number: int, caller: str = asking) -> Response:
        """Return an image to try, as a PNG."""
        if served.samples is None or not 0 <= number < len(served.samples):
            raise Refusal(404, "there is no such sample.")
        return Response(as_png(served.samples[number]), media_type="image/png")

    @app.get("/metrics", responses=FAULTS)
    async def metrics(caller: str = asking) -> Response:
        """Return counts and times for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})


def _page(app: FastAPI) -> None:
    """Add the page's files, which load nothing from elsewhere."""
    folder = files("fedmerge.serving") / "page"

    def answering(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
        content = (folder / name).read_bytes()

        async def answer() -> Response:
            return Response(content, media_type=kind)

        return answer

    async def no_icon() -> Response:
        return Response(status_code=204)

    app.add_api_route("/favicon.ico", no_icon, include_in_schema=False)  # browsers ask for one
    for path, (name, kind) in PAGE.items():
        app.add_api_route(f"/{path}", answering(name, kind), include_in_schema=False)


def _faults(app: FastAPI, service: Service) -> None:
    """Answer what is refused with a sentence, and count it."""

    def refused(status: int, sentence: str) -> Response:
        service.metrics.refused.labels(str(status)).inc()
        more = (
            {"www-authenticate": "Bearer"} if status == 401 else {"retry-after": "5"} if status == 503 else {}
        )
        return JSONResponse({"error": sentence}, status, headers=more)

    @app.exception_handler(Refusal)
    async def refusal(request: Request, error: Refusal) -> Response:
        return refused(error.status, error.sentence)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refused(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return refused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}.")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return refused(500, f"the service failed ({type(error).__name__}): tell its people.")


def _plain(value: Any) -> bool:
    return (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )
