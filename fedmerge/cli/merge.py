"""``fedmerge merge``: fuse many safetensors files into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmerge.cli.app import Json, MethodOptions, Normalisation, Work, app, err, out, print_json, say
from fedmerge.cli.progress import lines
from fedmerge.schema.option_groups import flat


@dataclass(frozen=True)
class Files:
    """What is said of models in files, and the images that they are fused with."""

    model: Annotated[
        str | None,
        typer.Option(
            help="The network, NAME or NAME:OPTION=VALUE,...; not needed where cards (.json) stand beside."
        ),
    ] = None
    data: Annotated[
        str | None, typer.Option(help="Fusion images: npz:FILE, medmnist:NAME, folder:DIR or digits.")
    ] = None
    split: Annotated[str, typer.Option(help="The split of data that is used: train, val or test.")] = "val"
    images: Annotated[int, typer.Option(min=1, help="At most so many images, the same of each class.")] = 400
    normalisation: Normalisation = "default"
    labelled: Annotated[bool, typer.Option(help="Whether the method may see the images' classes.")] = False
    start: Annotated[
        Path | None, typer.Option(help="The weights from which all were trained (task vectors).")
    ] = None


@app.command()
@flat
def merge(
    models: Annotated[list[Path], typer.Argument(help="Weights, one .safetensors file a model.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="The file to write; must not be there yet.")],
    method: Annotated[str, typer.Option(help="A fusion method: see fedmerge methods.")] = "mean",
    *,
    files: Files,
    options: MethodOptions = None,
    after: Annotated[str, typer.Option(help="none, repair or batch-norm.")] = "none",
    work: Work,
    as_json: Json = False,
) -> None:
    """Fuse models of one network into one, and write it, with a card that names its parents."""
    from fedmerge.experiment.configuration.changes import apply_change
    from fedmerge.plugins import load_plugins
    from fedmerge.workflows.merge_files import merge_files
    from fedmerge.workflows.model_files import FusionImages

    load_plugins(work.plugins or [])
    entry: dict[str, Any] = {"method": method, "after": after}
    for change in options or []:
        apply_change(entry, change)
    images = None
    if files.data is not None:
        images = FusionImages(files.data, files.split, files.images, files.labelled, files.normalisation)
    with lines(err, lambda: f"merging {len(models)} models by {method}"):
        result = merge_files(
            models,
            output,
            entry,
            network=files.model,
            data=images,
            start=files.start,
            seed=work.seed,
            device=work.device,
        )
    if as_json:
        print_json(
            {
                "file": str(output),
                "method": method,
                "coefficients": result.coefficients,
                "seconds": result.seconds,
                "decisions": result.decisions,
            }
        )
        return
    shares = ", ".join(f"{name} {share:.3g}" for name, share in result.coefficients.items())
    say(out, f"{method} of {len(models)} models in {result.seconds:.1f} s: {shares}")
    say(out, f"weights: {output}")
