"""``fedmerge new`` and ``fedmerge schema``: a project to begin with, and schemas for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, out, print_json, say
from fedmerge.errors import FedMergeError


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="The project's folder, new or empty.")],
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=PLACE…]", help="Your hospitals: a folder, table or .npz file each."),
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(help="A hospital that does not train; may be repeated. Default: the last."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Your images as SIZE x SIZE pixels.")] = None,
    as_json: Json = False,
) -> None:
    """Write a project that runs as it is, with your images or digits: experiment, hospitals, plug-ins."""
    from fedmerge.cli.cohorts import named_places
    from fedmerge.workflows.new_project import new_project
    from fedmerge.workflows.own_hospitals import Hospitals

    own = Hospitals(named_places(places), tuple(unseen or ()), size) if places else None
    if own is None and (unseen or size):
        raise FedMergeError(
            "--unseen and --size are for hospitals of your own: name them, north=images/north."
        )
    made = new_project(folder, own)
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in made]})
        return
    for path in made:
        say(out, str(path))
    look = "     fedmerge sites check sites/hospitals.yaml\n" if own else ""
    say(out, f"now: cd {folder}\n{look}     fedmerge run experiment.yaml")


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
