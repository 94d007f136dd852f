"""The command group ``fedmerge deployment``, and the arguments that several of its commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import app

deployment = typer.Typer(
    help="Hospitals on machines of their own: certificates, keys, starting, running (docs/deployment.md).",
    no_args_is_help=True,
)
app.add_typer(deployment, name="deployment")

Folder = Annotated[Path, typer.Argument(help="The folder of the server, or of a node.")]
Server = Annotated[Path, typer.Argument(help="The server's folder.")]
Node = Annotated[Path, typer.Argument(help="The node's folder.")]
