"""``fedmerge compare``: two runs or two studies side by side."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli.app import Json, app, err, out, print_json, say

if TYPE_CHECKING:
    from rich.table import Table

    from fedmerge.workflows.comparing import Comparison


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The folder of a run or a study.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same kind.")],
    metric: Annotated[str, typer.Option(help="The score; auto: as the runs rank.")] = "auto",
    as_json: Json = False,
) -> None:
    """Compare two runs or two studies: second minus first, paired, and what differs in configuration."""
    from fedmerge.storage.manifest import warnings
    from fedmerge.workflows.comparing import compare as compare_folders

    for sentence in (*warnings(first), *warnings(second)):
        say(err, f"warning: {sentence}", style="red")
    found = compare_folders(first, second, metric)
    if as_json:
        print_json(_without_nan(asdict(found)))
        return
    out.print(_table(found))
    say(out, found.rule)
    for folder, names in zip(found.folders, found.only, strict=True):
        if names:
            say(out, f"only in {folder}: {', '.join(names)}")
    if found.left_out:
        say(out, f"left out: {found.left_out} cells of method, seed, site and stream that one of them lacks")
    say(out, "settings that differ:" if found.settings else "the configurations are the same")
    for field, before, now in found.settings:
        say(out, f"  {field}: {_short(before)} -> {_short(now)}")


def _table(found: Comparison) -> Table:
    from rich import box
    from rich.table import Table

    from fedmerge.analysis.metrics import scale_of

    scale = scale_of(found.metric)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        title=f"{scale.words}: {found.folders[1]} minus {found.folders[0]}",
    )
    table.add_column("method")
    for heading in ("first ", "second ", "difference ", "95 % interval ", "better ", "worse "):
        table.add_column(heading.strip(), justify="right", no_wrap=True)
    times = 100 if scale.format == "percent" else 1
    for pair in found.pairs:
        interval = "" if math.isnan(pair.low) else f"{times * pair.low:+.3g} to {times * pair.high:+.3g}"
        cells = (scale.text(pair.first), scale.text(pair.second), f"{times * pair.difference:+.3g}", interval)
        table.add_row(pair.method, *(f" {cell}" for cell in (*cells, pair.wins, pair.losses)))
    return table


def _short(value: object) -> str:
    from fedmerge.errors import short

    return "not set" if value is None else short(str(value))


def _without_nan(value: object) -> object:
    """Return a value for JSON: None in place of NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
