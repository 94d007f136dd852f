"""The command that writes the report of a run or a study again from what lies in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, app, out, print_json, say


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="The folder of a run or a study, or a file in it.")],
    target: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write. Default: report.html in the folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run or a study again; nothing else in its folder is touched."""
    from fedmerge.study.reports.again import write_again

    kind, written = write_again(path, target)
    if as_json:
        print_json({"kind": kind, "report": str(written)})
        return
    say(out, f"report:  {written}")
