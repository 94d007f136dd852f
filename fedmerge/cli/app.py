"""The command line's frame: the app, where it speaks, and how errors end it.

What the user can put right is one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from fedmerge.errors import FedMergeError

app = typer.Typer(
    help="Hospitals train, a server fuses, an unseen hospital adapts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FedMergeError as error:
        say(err, f"error: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        say(err, "stopped: what was measured so far is in the run's folder.")
        sys.exit(130)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print plain text: no markup, no wrapping."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
