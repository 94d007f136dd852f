"""``fedmerge merge``: fuse many safetensors files into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedmerge.cli.app import Json, Plugins, Seed, app, err, out, print_json, say
from fedmerge.cli.progress import lines


@app.command()
def merge(
    models: Annotated[list[Path], typer.Argument(help="Weights, one .safetensors file a model.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="The file to write; must not be there yet.")],
    method: Annotated[str, typer.Option(help="A fusion method: see fedmerge methods.")] = "mean",
    model: Annotated[
        str | None,
        typer.Option(
            help="The network, NAME or NAME:OPTION=VALUE,...; not needed where cards (.json) stand beside."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Fusion images: npz:FILE, medmnist:NAME, folder:DIR or digits.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of data that is used: train, val or test.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="At most so many images, the same of each class.")] = 400,
    normalisation: Annotated[
        str, typer.Option(help="Of images, where no card says it: half (to -1 to 1), imagenet or none.")
    ] = "default",
    labelled: Annotated[bool, typer.Option(help="Whether the method may see the images' classes.")] = False,
    start: Annotated[
        Path | None, typer.Option(help="The weights from which all were trained (task vectors).")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=B", help="A method's option; may be repeated.")
    ] = None,
    after: Annotated[str, typer.Option(help="none, repair or batch-norm.")] = "none",
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Fuse models of one network into one, and write it, with a card that names its parents."""
    from fedmerge.experiment.configuration.changes import apply_change
    from fedmerge.plugins import load_plugins
    from fedmerge.workflows.merge_files import FusionImages, merge_files

    load_plugins(plugins or [])
    entry: dict[str, Any] = {"method": method, "after": after}
    for change in options or []:
        apply_change(entry, change)
    with lines(err, lambda: f"merging {len(models)} models by {method}"):
        result = merge_files(
            models,
            output,
            entry,
            network=model,
            data=None if data is None else FusionImages(data, split, images, labelled, normalisation),
            start=start,
            seed=seed,
            device=device,
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
