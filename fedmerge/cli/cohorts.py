"""The commands that check a cohort's images, write its file, and show the cache of decoded images."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, err, out, print_json, say
from fedmerge.cli.commands import sites
from fedmerge.cli.progress import clock, progress_bar
from fedmerge.errors import FedMergeError, short

if TYPE_CHECKING:
    from fedmerge.data import Cohort
    from fedmerge.data.checks.report import CohortCheck
    from fedmerge.experiment.configuration.config import Experiment
    from fedmerge.workflows.estimate import Estimate

cache = typer.Typer(help="Decoded images of folders, tables and DICOM files, on disk.", no_args_is_help=True)
app.add_typer(cache, name="cache")
STYLES = {"error": "red", "warning": "yellow", "note": None}


@sites.command("check")
def check_sites(
    cohort: Annotated[str, typer.Argument(help="A cohort's name, or a YAML file.")],
    page: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page. Default: COHORT-check.html in the current folder."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="An experiment: say what it would take, and whether it can run, on this cohort."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of what is drawn. Default: the experiment's seeds, or 0."),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check a cohort's images before training: counts, damaged files, copies, leaks, what gives labels away,
    and what an experiment with them would take.

    The exit code is 0 for notes at most, 1 for warnings, 2 for errors. Nothing leaves this machine.
    """
    from fedmerge.cli.estimates import estimate_record
    from fedmerge.data import build_cohort, read_cohort
    from fedmerge.data.checks.report import CohortCheck, Finding, check_cohort
    from fedmerge.data.progress import noting_refused, telling
    from fedmerge.plugins import load_plugins
    from fedmerge.reports.cohort_page import summary, write_cohort_page

    load_plugins(plugins or [])
    spec, began = read_cohort(cohort), time.perf_counter()
    experiment = None if config is None else _experiment(config, cohort, seed, plugins or [])
    first = experiment.seeds[0] if experiment is not None else (seed or 0)
    built = cost = None
    with progress_bar(err, quiet=as_json) as progress, telling(progress), noting_refused() as refused:
        try:
            built = build_cohort(spec, first)
        except FedMergeError as error:
            said = [
                *refused,
                *(each for each in map(str, error.args) if each.split(" ")[0] not in _firsts(refused)),
            ]
            check = CohortCheck(
                spec.name, (0, 0, 0), (), tuple(Finding("error", "not usable", text) for text in said), 0
            )
        else:
            cost, why_not = (None, []) if experiment is None else _estimated(experiment, built)
            check = check_cohort(built, refused, why_not)
    needs = _needs(check, cost, experiment is None)
    path = (Path(f"{spec.name}-check.html") if page is None else page).absolute()
    write_cohort_page(check, built, path, needs)
    took = time.perf_counter() - began
    if as_json:
        more = {"estimate": None if cost is None else estimate_record(cost), "page": str(path)}
        print_json(check.record() | more | {"seconds": round(took, 2)})
        raise typer.Exit(check.exit_code)
    for finding in check.findings:
        say(out, f"{finding.severity}: {finding.text}", style=STYLES[finding.severity])
    if built is not None:
        from fedmerge.cli.tables import cohort_table

        out.print(cohort_table(built))
        say(out, f"{summary(check)} Read and checked in {clock(took)}.")
    for line in needs:
        say(out, line)
    say(out, f"page: {path}")
    raise typer.Exit(check.exit_code)


def named_places(places: list[str]) -> dict[str, Path]:
    """Read NAME=PLACE words. Raises FedMergeError for one that is not so, and for a name given twice."""
    from fedmerge.data.cohort.spec import plain_name

    named: dict[str, Path] = {}
    for each in places:
        name, mark, where = each.partition("=")
        if not (name and mark and where) or name in named:
            raise FedMergeError(f"'{each}': write NAME=PLACE, each name once, such as north=scans/north.csv.")
        try:
            plain_name(name)
        except ValueError as error:
            raise FedMergeError(f"'{short(each)}': {error}.") from None
        named[name] = Path(where).expanduser().absolute()
    return named


@sites.command("new")
def new_sites(
    file: Annotated[Path, typer.Argument(help="The cohort's file, a new one.")],
    places: Annotated[
        list[str], typer.Argument(metavar="NAME=PLACE…", help="A folder, table or .npz a hospital.")
    ],
    unseen: Annotated[
        list[str] | None, typer.Option(help="A hospital that does not train; may be repeated.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="All images as SIZE x SIZE.")] = None,
    path: Annotated[
        str | None, typer.Option(help="A table's column of files, where it can't be seen.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A table's column of classes, where it can't be seen.")
    ] = None,
) -> None:
    """Write a cohort's file from folders, tables and DICOM files; check it with sites check."""
    import yaml

    from fedmerge.data.sources.new_cohort import new_cohort
    from fedmerge.storage.files import write_text

    if file.exists():
        raise FedMergeError(f"'{file}' is already there: choose a new name.")
    named = named_places(places)
    columns = {key: column for key, column in (("path", path), ("label", label)) if column}
    written = new_cohort(named, unseen or [], size, columns)
    write_text(file, yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    for site in written["sites"]:
        say(out, f"{site['name']}: {site['source']}{' (unseen)' if site.get('unseen') else ''}")
    say(out, f"written: {file}; look at it with: fedmerge sites check {file}")


def _experiment(config: str, cohort: str, seed: int | None, plugins: list[str]) -> Experiment:
    """Read an experiment as it would run with this cohort. Raises FedMergeError with all its faults."""
    from fedmerge.experiment.configuration.reading import read_experiment

    return read_experiment(config, [f"cohort={json.dumps(cohort)}"], seed, plugins=plugins)[0]


def _estimated(experiment: Experiment, built: Cohort) -> tuple[Estimate | None, list[str]]:
    """Return what an experiment would take, or why it cannot run on the cohort as built."""
    from fedmerge.workflows.estimate import estimate

    try:
        return estimate(experiment, built=built), []
    except FedMergeError as error:
        return None, [str(each) for each in error.args]


def _needs(check: CohortCheck, cost: Estimate | None, images_alone: bool) -> list[str]:
    """Return lines about time and memory: of the experiment, or of the decoded images alone."""
    from fedmerge.cli.estimates import estimate_lines

    if cost is not None:
        return estimate_lines(cost)
    if not images_alone or not check.sites:
        return []
    held = (check.bytes - check.cached) / 2**20
    on_disk = f", {check.cached / 2**20:,.1f} MiB in the cache on disk" if check.cached else ""
    return [
        f"decoded images: {held:,.1f} MiB in memory{on_disk}. Time and memory of an experiment with them: "
        "add --config EXPERIMENT."
    ]


def _firsts(sentences: list[str]) -> set[str]:
    """Return the first words of sentences: the files they are about."""
    return {each.split(" ")[0] for each in sentences}


@cache.command("list")
def list_cache(as_json: Json = False) -> None:
    """List the entries, the longest unused first: these are removed where the cache would pass its bound."""
    from fedmerge.data.cache.place import entries, limit

    folder = _folder()
    held = entries(folder)
    if as_json:
        print_json([{"key": e.key, "bytes": e.size, "source": e.text, "images": e.images} for e in held])
        return
    for entry in held:
        channels, height, width = entry.shape
        kind = "grey" if channels == 1 else "colour"
        say(
            out,
            f"{entry.key[:12]}  {entry.size / 1e6:,.1f} MB  {entry.images:,} {kind} images of {width} x "
            f"{height} px "
            f"of {entry.text}, unused for {clock(entry.used)}",
        )
    total = sum(entry.size for entry in held)
    say(out, f"{len(held)} entries, {total / 1e9:,.2f} GB of at most {limit() / 1e9:,.0f}, in {folder}")


@cache.command("clean")
def clean_cache() -> None:
    """Remove every entry: images are decoded again when needed; runs at work keep what they use."""
    from fedmerge.data.cache.place import clean

    count, size = clean(_folder())
    say(out, f"{count} entries removed, {size / 1e9:,.2f} GB.")


def _folder() -> Path:
    from fedmerge.data.cache.place import FOLDER, place

    folder = place()
    if folder is None:
        raise FedMergeError(
            f"there is no cache: the environment variable {FOLDER} is 'off', or there is no home folder."
        )
    return folder
