"""Commands that watch a deployment (state, page, logs), inspect its hospitals' images, and end a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmerge.cli.app import Json, err, out, print_json, say
from fedmerge.cli.deployment.group import Folder, Server, deployment


@deployment.command()
def status(
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every few seconds, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Print the state: hospitals and when they were heard, runs, rounds, failures; also when all is down."""
    from fedmerge.cli.deployment.state_text import state_text
    from fedmerge.workflows.watching import status_of

    while True:
        found = status_of(folder)
        if as_json:
            print_json(found)
        else:
            if watch and out.is_terminal:
                out.clear()
            say(out, state_text(found))
        if not watch:
            return
        time.sleep(every)


@deployment.command("watch")
def watch_page(
    folder: Server,
    port: Annotated[int, typer.Option(min=0, max=65535, help="A port of this machine; 0 for any.")] = 8010,
) -> None:
    """Serve a page of the state, and /metrics for Prometheus, at 127.0.0.1, until Ctrl-C; read only."""
    from fedmerge.extras import extra
    from fedmerge.federation.deployment.local_page import serve_here
    from fedmerge.federation.deployment.server_folder import ServerFolder
    from fedmerge.workflows.watching import server_status

    with extra("deployment", "the page of 'fedmerge deployment watch'", "look with 'deployment status'"):
        import uvicorn  # noqa: F401

        from fedmerge.federation.deployment.page import watch_app
    server = ServerFolder(folder)
    app = watch_app(lambda: server_status(server))
    serve_here(app, port, lambda where: say(err, f"{where} and {where}/metrics; Ctrl-C ends it"))


@deployment.command()
def logs(
    folder: Folder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="10m, 2h, 3d, or a time as 2026-03-01T12:00.")] = None,
    hospital: Annotated[str | None, typer.Option(help="Lines of this hospital alone.")] = None,
    run: Annotated[int | None, typer.Option(help="Lines of this run alone.")] = None,
) -> None:
    """Print the logs of a server's or a node's programs, in the order of time."""
    from fedmerge.federation.deployment.logs import about, lines, moment
    from fedmerge.federation.deployment.logs import follow as new_lines
    from fedmerge.workflows.watching import logs_of

    found = logs_of(folder)
    for line in lines(found, moment(since) if since else None):
        if about(line, hospital, run):
            say(out, line)
    for line in new_lines(found) if follow else ():
        if about(line, hospital, run):
            say(out, line)


@deployment.command()
def stop(
    folder: Server,
    run: Annotated[
        int | None, typer.Argument(help="The run's number. Default: all that are at work.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Who stops it; it stands in the run. Default: your login.")
    ] = None,
) -> None:
    """End a run that is in progress; --resume goes on with it. The server must be up."""
    import getpass

    from fedmerge.errors import FedMergeError
    from fedmerge.federation.deployment.server_folder import ServerFolder
    from fedmerge.workflows.stopping import stop_deployed
    from fedmerge.workflows.watching import at_work, server_status

    server = ServerFolder(folder)
    numbers = at_work(server_status(server)) if run is None else [run]
    if not numbers:
        raise FedMergeError("no run is at work.")
    for number in numbers:
        reason = stop_deployed(server, number, getpass.getuser() if by is None else by)
        say(out, f"run {number}: {reason}")


@deployment.command()
def inspect(
    folder: Server,
    minimum: Annotated[int, typer.Option(min=1, help="Counts below this are not told.")] = 5,
    patience: Annotated[float, typer.Option(help="Seconds that hospitals are waited for.")] = 300.0,
    checks: Annotated[
        bool, typer.Option("--checks", help="Ask for what checks of the images find, too.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep it as JSON in this file, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the hospitals, before training, for sizes, classes, intensities and duplicates of their images."""
    from fedmerge.cli.deployment.state_text import inspection_text
    from fedmerge.storage.files import write_json
    from fedmerge.workflows.inspecting import inspect_deployed

    found: list[dict[str, Any]] = inspect_deployed(folder, minimum, patience, checks)
    if file is not None:
        write_json(file, found)
    if as_json:
        print_json(found)
    else:
        say(out, inspection_text(found, checks))
