"""The command that writes the report of a run or a study again from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, err, out, print_json, say
from fedmerge.cli.progress import clock, lines
from fedmerge.errors import FedMergeError


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="The folder of a run or a study, or a file in it.")],
    target: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write. Default: report.html in the folder."),
    ] = None,
    plugins: Plugins = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Serve a page of what goes on in the folder, until Ctrl-C; read only."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --live: a port of this machine; 0 for any.")
    ] = 8011,
    as_json: Json = False,
) -> None:
    """Write the report of a run or a study again; of its folder only the manifest is changed besides.

    With --live nothing is written: a page shows what runs, what is done and left, curves and failures; with
    --json, too, the state is printed once.
    """
    if live:
        if target is not None or plugins:
            raise FedMergeError("--live writes no report: give it without --out and --plugin.")
        _live(path, port, as_json)
        return
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


def _live(path: Path, port: int, as_json: bool) -> None:
    from fedmerge.extras import extra
    from fedmerge.federation.deployment.local_page import serve_here
    from fedmerge.workflows.live import live_status

    told = live_status(path)
    if as_json:
        print_json(told)
        return
    with extra("serve", "'fedmerge report --live'", "look with --json"):
        import uvicorn  # noqa: F401

        from fedmerge.workflows.live.app import live_app
    say(err, f"{told['kind']} in '{path}': {told['words']}")
    serve_here(
        live_app(lambda: live_status(path), clock), port, lambda where: say(out, f"{where}  (Ctrl-C ends it)")
    )
