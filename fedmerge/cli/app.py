"""The frame of the command line: the app, its output, and its exit codes.

An error that the user can put right is a sentence on stderr and exit code 2. Work that is done, but of which
rows failed, ends with exit code 1; Ctrl-C with 130, SIGTERM with 143.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Context
from rich.console import Console
from typer.core import TyperGroup

from fedmerge.cli.ending import exit_code
from fedmerge.errors import FedMergeError, short

FIRST = ("new", "sites", "run", "report", "serve", "compare", "bench", "methods", "doctor")
"""The commands that a newcomer looks for, in the order of need; the others follow."""


class InOrder(TyperGroup):
    """The commands, the first ones first."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names in the order of the help."""
        known = super().list_commands(ctx)
        return [name for name in FIRST if name in known] + [name for name in known if name not in FIRST]


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

FAILED = 1
"""The exit code of work that is done, but of which rows failed."""

out = Console()
err = Console(stderr=True)

# options and arguments of more than one command; those that go together are a group (``flat``)
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Config = Annotated[str | None, typer.Argument(help="A YAML file, or the name of a shipped configuration.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change a field; may be repeated, and the last counts."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The seed of everything that is drawn.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A file or module that adds methods; may be repeated."),
]
Trackers = Annotated[
    list[str] | None, typer.Option("--tracker", help="tensorboard, mlflow or wandb; may be repeated.")
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="The run's folder, new or empty. Default: runs/NAME-001 …")
]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Go on with the run in this folder, where it stopped.")
]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
]
Normalisation = Annotated[
    str, typer.Option(help="Of images, where no card says it: half (to -1 to 1), imagenet or none.")
]
MethodOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="A=B", help="A method's option; may be repeated.")
]
DEVICE = typer.Option(help="auto, cpu, cuda or cuda:N.")
Device = Annotated[str, DEVICE]
DeviceOrNone = Annotated[str | None, DEVICE]


@dataclass(frozen=True)
class Added:
    """What comes to an experiment from outside: methods, and who is told of its rows."""

    plugins: Plugins = None
    trackers: Trackers = None


@dataclass(frozen=True)
class Work:
    """How one computation is done."""

    seed: Seed = 0
    device: Device = "auto"
    plugins: Plugins = None


def _print_version(asked: bool) -> None:
    if asked:
        import fedmerge

        say(out, f"fedmerge {fedmerge.__version__}")
        raise typer.Exit


@app.callback()
def frame(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop."),
    ] = False,
) -> None:
    """Hospitals train, a server fuses, an unseen hospital adapts."""


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FedMergeError as error:
        say(err, f"error: {error}", style="red")
        sys.exit(2)
    except OSError as error:
        where = f"'{short(error.filename)}' " if error.filename else ""
        say(err, f"error: {where}cannot be used ({error.strerror or error}): check the path.", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        say(err, "stopped.")
        sys.exit(exit_code())


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print plain text: no markup, no wrapping."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that were given: those that are not None."""
    return {key: value for key, value in fields.items() if value is not None}


def with_trackers(changes: list[str] | None, trackers: list[str] | None) -> list[str]:
    """Return the changes of a configuration, with that of --tracker among them."""
    return [*(changes or []), *([f"trackers=[{', '.join(trackers)}]"] if trackers else [])]
