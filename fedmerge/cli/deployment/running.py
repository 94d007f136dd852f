"""Commands that start a server or a node, and run an experiment with the hospitals that come."""

from __future__ import annotations

from typing import Annotated

import typer

from fedmerge.cli.app import Changes, Config, Plugins, Resume, RunFolder, err, say
from fedmerge.cli.deployment.group import Folder, Server, deployment
from fedmerge.cli.deployment.identity import remind
from fedmerge.cli.progress import lines
from fedmerge.errors import FedMergeError


@deployment.command()
def start(folder: Folder) -> None:
    """Start the server or the node of a folder, and keep it up until Ctrl-C or SIGTERM."""
    from fedmerge.federation.deployment.identity import introduce, take_new_key
    from fedmerge.federation.deployment.modes import mend_modes
    from fedmerge.federation.deployment.node_folder import NodeFolder
    from fedmerge.federation.deployment.server_folder import ServerFolder
    from fedmerge.federation.deployment.serving import (
        at_service,
        ended_by_sigterm,
        keep_up,
        start_node,
        start_server,
    )
    from fedmerge.schema.validation import is_there

    server = ServerFolder(folder) if is_there(folder / "server.yaml") else None
    node = None if server else NodeFolder(folder)
    for sentence in mend_modes(folder):
        say(err, f"note: {sentence}")
    remind(folder)
    with ended_by_sigterm(), at_service(folder) as programs:
        if server is not None:
            now = ["the server is starting"]
            with lines(err, lambda: now[-1]):
                up = start_server(programs, server, now.append)
            say(err, f"hospitals are served at {server.settings.host}:{server.settings.port}; Ctrl-C ends it")
        else:
            assert node is not None
            take_new_key(node)
            for remark in introduce(node).remarks:
                say(err, f"note: {remark}")
            up = start_node(programs, node)
            say(err, f"{node.settings.site} speaks to {node.settings.server}; Ctrl-C ends it")
        say(err, f"logs: {', '.join(dict.fromkeys(str(program.log) for program in up))}")
        try:
            keep_up(up)
        except FedMergeError:
            if node is None:
                raise
            if not take_new_key(node):
                for remark in introduce(node).remarks:  # that it was revoked, say
                    say(err, f"note: {remark}")
                raise
            say(err, "the server has admitted the new key: starting with it")
            for program in up:
                program.stop()
            keep_up(start_node(programs, node))


@deployment.command()
def run(
    folder: Server,
    config: Config = None,
    changes: Changes = None,
    result: RunFolder = None,
    seed: Annotated[int | None, typer.Option(help="The seed. Default: the first of the experiment.")] = None,
    resume: Resume = None,
    patience: Annotated[float, typer.Option(help="Seconds that hospitals are waited for.")] = 300.0,
    plugins: Plugins = None,
) -> None:
    """Run an experiment with the connected hospitals; print the table, write the report."""
    from fedmerge.cli.commands import end, show_result
    from fedmerge.workflows.deployed import run_deployed

    remind(folder)
    seen = ["being sent"]

    def progress(status: str) -> None:
        if status != seen[-1]:
            seen.append(status)
            say(err, f"the run is {status}")

    with lines(err, lambda: f"the run is {seen[-1]}"):
        done = run_deployed(
            folder,
            config,
            changes=changes or [],
            out=result,
            seed=seed,
            resume=resume,
            patience=patience,
            plugins=plugins or [],
            progress=progress,
        )
    show_result(done)
    end(done)
