"""``fedmerge analyse``: why merging worked or failed, of a run or of models in files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import FAILED, Json, Normalisation, Work, app, err, out, print_json, say
from fedmerge.cli.progress import lines
from fedmerge.schema.option_groups import flat


@dataclass(frozen=True)
class Files:
    """What is said of models in files, and the images that go through them."""

    model: Annotated[
        str | None,
        typer.Option(help="Of files: the network, NAME or NAME:OPTION=VALUE,...; cards say it, too."),
    ] = None
    data: Annotated[
        str | None, typer.Option(help="Of files: images, npz:FILE, medmnist:NAME, folder:DIR or digits.")
    ] = None
    split: Annotated[str, typer.Option(help="The split that is looked at: train, val or test.")] = "val"
    images: Annotated[int, typer.Option(min=1, help="At most so many images.")] = 400
    normalisation: Normalisation = "default"
    start: Annotated[
        Path | None, typer.Option(help="The weights from which all were trained, for angles around them.")
    ] = None


@app.command()
@flat
def analyse(
    paths: Annotated[
        list[Path], typer.Argument(help="The folder of a run, or two .safetensors files or more.")
    ],
    *,
    files: Files,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="An analysis; may be repeated.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.OPTION=B", help="An analysis's option; may be repeated."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="A new or empty folder. Default: runs/analysis-001 …")
    ] = None,
    work: Work,
    as_json: Json = False,
) -> None:
    """Measure why models can be averaged or not: tables, a page, and a sentence for each analysis.

    Without --only all analyses are made but those that train (settings, inmerge). The exit code is 1 where
    one that was named gave nothing.
    """
    from fedmerge.plugins import load_plugins
    from fedmerge.reports.analysis_report import write_analysis
    from fedmerge.workflows.analyse import analyse as analyse_models

    load_plugins(work.plugins or [])
    with lines(err, lambda: f"analysing {', '.join(map(str, paths))}"):
        found = analyse_models(
            paths,
            network=files.model,
            data=files.data,
            split=files.split,
            images=files.images,
            normalisation=files.normalisation,
            start=files.start,
            only=only or [],
            changes=options or [],
            out=folder,
            seed=work.seed,
            device=work.device,
        )
        page = write_analysis(found, ["fedmerge", *sys.argv[1:]], work.plugins or [])
    if as_json:
        print_json({
            "folder": str(found.folder),
            "about": found.about,
            "answer": found.answer,
            "findings": {
                name: {"sentence": each.sentence, "number": each.number if isfinite(each.number) else None}
                for name, each in found.findings.items()
            },
            "left_out": found.left,
        })  # fmt: skip
    else:
        say(out, f"looked at: {found.about}")
        for name, each in found.findings.items():
            say(out, f"{name}: {each.sentence}")
        for reason, names in found.reasons.items():
            say(err, f"{', '.join(names)}: left out: {reason}")
        say(out, f"answer: {found.answer}")
        say(out, f"report: {page}")
    if only and found.left:
        raise typer.Exit(FAILED)
