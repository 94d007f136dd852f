"""``fedmerge new`` and ``fedmerge schema``: a project to begin with, and schemas for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, out, print_json, say


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="The project's folder, new or empty.")],
    as_json: Json = False,
) -> None:
    """Write a project that runs as it is: experiment, hospitals, an own method and an own metric."""
    from fedmerge.workflows.new_project import new_project

    made = new_project(folder)
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in made]})
        return
    for path in made:
        say(out, str(path))
    say(out, f"now: cd {folder} && fedmerge run experiment.yaml")


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="experiment, study, cohort, node or policy.")],
    plugins: Plugins = None,
) -> None:
    """Print the JSON Schema of a kind of YAML file, for editors that check and complete what is written."""
    from fedmerge.plugins import load_plugins
    from fedmerge.workflows.reference import schemas

    load_plugins(plugins or [])
    print_json(schemas.schema(kind))
