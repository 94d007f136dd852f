"""``fedmerge serve``: the test-time node of one hospital as a service, with a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli.app import Device, MethodOptions, Plugins, app, err, out, say
from fedmerge.schema.option_groups import flat

if TYPE_CHECKING:
    from fedmerge.serving.limits import Limits


@dataclass(frozen=True)
class Asked:
    """What is served: a method over some of a run's models, for the images of one hospital."""

    method: Annotated[
        str | None,
        typer.Option(
            help="A test-time or fusion method, or a label of the run. Default: stream-adaptive; of "
            "pretrained networks federated, or mean."
        ),
    ] = None
    options: MethodOptions = None
    target: Annotated[
        str | None, typer.Option(help="The run's hospital that is served; its own model is left out.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="One of the run's seeds. Default: the smallest.")] = None
    samples: Annotated[
        str | None,
        typer.Option(
            help="Images to try on the page: run (of its unseen hospital), npz:FILE, folder:DIR, digits."
        ),
    ] = None
    normalise: Annotated[
        str | None,
        typer.Option(
            help="This hospital's images, for models of normalisation: per-site: run, npz:FILE, folder:DIR."
        ),
    ] = None


@dataclass(frozen=True)
class Listening:
    """Where the service listens, and by which certificates."""

    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at; another than this machine's takes TLS and known clients."
        ),
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any.")] = 8020
    certificate: Annotated[Path | None, typer.Option(help="TLS: the certificate, PEM.")] = None
    key: Annotated[Path | None, typer.Option(help="TLS: its private key, PEM.")] = None
    client_ca: Annotated[
        Path | None,
        typer.Option(help="Mutual TLS: who signs clients' certificates, PEM; their name is the client's."),
    ] = None


@dataclass(frozen=True)
class Clients:
    """Who may ask."""

    tokens: Annotated[
        Path | None, typer.Option(help="The file of clients' tokens; without it none is asked for.")
    ] = None
    new_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add a client to --tokens, print its token, and stop.")
    ] = None


@dataclass(frozen=True)
class Kept:
    """What the service keeps, and how much it takes."""

    history: Annotated[
        Path | None, typer.Option(help="Keep the history in this SQLite file. Default: in memory.")
    ] = None
    keep_images: Annotated[
        Path | None, typer.Option(help="Write every image into this folder. Default: none is written.")
    ] = None
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="A=B", help="A limit, such as streams=16; may be repeated."),
    ] = None


@app.command()
@flat
def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="The folder of a run, a folder of models, or .safetensors files."),
    ] = None,
    *,
    asked: Asked,
    listening: Listening,
    clients: Clients,
    kept: Kept,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch. Default: its own choice.")] = None,
    plugins: Plugins = None,
) -> None:
    """Answer batches of images over HTTP with a test-time node, and serve a page, until Ctrl-C.

    Research use, not a medical device.
    """
    from fedmerge.errors import FedMergeError
    from fedmerge.extras import extra

    if clients.new_token is not None:
        _new_token(clients.tokens, clients.new_token)
        return
    if not models:
        raise FedMergeError("give the folder of a run, a folder of models, or .safetensors files.")
    with extra("serve", "'fedmerge serve'"):
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    from fedmerge.experiment.folder.machine import settle
    from fedmerge.plugins import load_plugins
    from fedmerge.serving.serve import Address
    from fedmerge.serving.serve import serve as serve_until_told
    from fedmerge.serving.service import Service
    from fedmerge.serving.tokens import Tokens
    from fedmerge.workflows.served import find_models, served
    from fedmerge.workflows.served import samples as samples_of

    address = Address(
        listening.host, listening.port, listening.certificate, listening.key, listening.client_ca
    )
    known = None if clients.tokens is None else Tokens(clients.tokens)
    address.check(known is not None)
    load_plugins(plugins or [])
    settle(threads)
    found = find_models(models, asked.target, asked.seed)
    images = None if asked.samples is None else samples_of(found, asked.samples)
    what = served(found, asked.method, asked.options or [], device, images, asked.normalise)
    service = Service(what, _limits(kept.limits or []), known, kept.history, kept.keep_images)
    say(err, f"{what.title}: {', '.join(what.names)}")
    say(err, "research use, not a medical device")
    serve_until_told(service, address, lambda where: say(out, f"{where}  (Ctrl-C ends it)"))


def _new_token(tokens: Path | None, name: str) -> None:
    from fedmerge.errors import FedMergeError
    from fedmerge.serving.tokens import add_token

    if tokens is None:
        raise FedMergeError("--new-token adds a client to a file: give it with --tokens FILE.")
    token = add_token(tokens, name)
    say(err, f"the token of '{name}'; it is kept nowhere, only its hash is, in {tokens}:")
    say(out, token)


def _limits(changes: list[str]) -> Limits:
    from fedmerge.experiment.configuration.changes import apply_change
    from fedmerge.schema.validation import validate
    from fedmerge.serving.limits import Limits

    given: dict[str, Any] = {}
    for change in changes:
        apply_change(given, change)
    return validate(Limits, given, "--limit")
