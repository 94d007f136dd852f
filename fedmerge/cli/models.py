"""``fedmerge models``: those of a run or a folder, where each comes from, and files for other programs."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, err, out, print_json, say
from fedmerge.cli.columns import columns
from fedmerge.cli.progress import lines

if TYPE_CHECKING:
    from fedmerge.models.lineage import KnownModel

models = typer.Typer(help="Models with cards: what they are, where they come from.", no_args_is_help=True)
app.add_typer(models, name="models")

Model = Annotated[
    Path, typer.Argument(help="A model: its .safetensors file, or its path without the ending.")
]
Among = Annotated[
    Path | None, typer.Option("--among", help="Where its parents are looked for. Default: the run's folder.")
]


@models.command("list")
def list_models(
    folder: Annotated[Path, typer.Argument(help="A run, a study, or a folder of models.")],
    as_json: Json = False,
) -> None:
    """List every model with a card: how it was made, of how many parents, and its validation score."""
    from fedmerge.models.lineage import models_below

    found, faults = models_below(folder)
    for sentence in faults:
        say(err, f"warning: {sentence}", style="red")
    if as_json:
        print_json([{"path": str(each.path), **json.loads(each.card.text)} for each in found])
        return
    for folder_name, members in groupby(found, lambda each: each.place.rpartition("/")[0]):
        say(out, f"{folder_name or '.'}/")
        for line in columns([_line(each) for each in members]):
            say(out, line)


def _line(model: KnownModel) -> list[str]:
    """Return a model in words: name, network, how it was made, of how many, and its validation score."""
    card, score = model.card, model.card.metrics.get("validation")
    parents = f"of {len(card.parents)}" if card.parents else ""
    validated = "" if score is None else f"validation {100 * score:.1f} %"
    return [model.path.stem, card.model.name, card.method, parents, validated]


@models.command("show")
def show_model(
    model: Model,
    among: Among = None,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model hub's README, Markdown with a YAML head.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one model: its card, and its parents and theirs."""
    from fedmerge.models.card_text import card_text
    from fedmerge.models.lineage import find_model, lineage, models_below

    found = find_model(model)
    known, _ = models_below(among or _root(found.path))
    here = found.path.resolve()
    named = next((each for each in known if each.path.resolve() == here), found)
    ancestors = list(lineage(named, known))
    if as_json:
        print_json(json.loads(found.card.text) | {"lineage": ancestors})
        return
    if card:
        say(out, card_text(found.card, ancestors))
        return
    network = found.card.model
    say(out, f"{found.path}: {found.card.name}")
    say(out, f"network:  {network.name} {json.dumps(network.options)}")
    size = network.image_size
    say(
        out,
        f"takes:    {network.in_channels} x {size} x {size} px, classes {', '.join(found.card.class_names)}",
    )
    for name, value in found.card.metrics.items():
        say(out, f"{name}: {value:.4g}")
    say(out, f"sha256:   {found.card.sha256}")
    say(out, "made of:")
    for depth, words in ancestors:
        say(out, f"  {'  ' * depth}{words}")


@models.command("export")
def export_model(
    model: Model,
    output: Annotated[Path, typer.Option("--out", "-o", help="FILE.pt (TorchScript) or FILE.onnx; new.")],
    normalise: Annotated[
        str | None,
        typer.Option(
            help="This hospital's images, for a model of normalisation: per-site: npz:FILE, folder:DIR."
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Export a model for other programs: uint8 images in, logits out; checked on two batches."""
    from fedmerge.models.export import BATCHES, FORMATS, export
    from fedmerge.models.lineage import find_model
    from fedmerge.plugins import load_plugins
    from fedmerge.workflows.model_files import at_hospital

    load_plugins(plugins or [])
    found = find_model(model)
    with lines(err, lambda: f"exporting {found.card.name}"):
        worst = export(found.path, at_hospital(found.card, normalise), output)
    if as_json:
        print_json({"file": str(output), "format": FORMATS[output.suffix], "difference": worst})
        return
    batches = " and ".join(map(str, BATCHES))
    say(out, f"{FORMATS[output.suffix]}: {output}")
    say(out, f"checked:  batches of {batches} images; largest difference of logits {worst:.1g}, relative")


def _root(weights: Path) -> Path:
    """Return the folder of the run that a model lies in; its own folder where it is in none."""
    folder = weights.absolute().parent
    return next((above for above in (folder, *folder.parents) if (above / "run.json").is_file()), folder)
