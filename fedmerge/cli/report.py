"""The command that writes the report of a run or a study again from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, err, out, print_json, say
from fedmerge.cli.progress import lines


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="The folder of a run or a study, or a file in it.")],
    target: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write. Default: report.html in the folder."),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run or a study again; of its folder only the manifest is changed besides."""
    from fedmerge.workflows.rewrite import doubts, unfinished, write_again

    with lines(err, lambda: f"writing the report of {path}"):
        kind, written = write_again(path, target, plugins or [])
    left, found = unfinished(path), doubts(path)
    if as_json:
        print_json({"kind": kind, "report": str(written), "unfinished": left, "warnings": found})
        return
    for sentence in found:
        say(err, f"warning: {sentence}", style="red")
    if left is not None:
        say(err, f"note: {left}")
    say(out, f"report:  {written}")
