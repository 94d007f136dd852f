"""The commands that run an experiment, and list, show and export cohorts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli.app import (
    FAILED,
    Added,
    Address,
    Changes,
    Config,
    DeviceOrNone,
    Json,
    Plugins,
    Resume,
    RunFolder,
    Seed,
    app,
    err,
    given,
    out,
    print_json,
    say,
    with_trackers,
)
from fedmerge.cli.ending import ends_in_order, exit_code
from fedmerge.cli.importing import importing
from fedmerge.cli.progress import lines, progress_bar
from fedmerge.errors import FedMergeError
from fedmerge.schema.option_groups import flat
from fedmerge.storage.files import write

if TYPE_CHECKING:
    from fedmerge.experiment.folder.results import Result

sites = typer.Typer(help="The cohorts of hospitals in sites/*.yaml.", no_args_is_help=True)
app.add_typer(sites, name="sites")


@dataclass(frozen=True)
class Asked:
    """The experiment that is asked for, and where its run goes."""

    config: Config = None
    changes: Changes = None
    folder: RunFolder = None


@dataclass(frozen=True)
class Place:
    """Where the hospitals of a run work."""

    device: DeviceOrNone = None
    backend: Annotated[
        str, typer.Option(help="Where the hospitals work: local (this process) or ray (worker processes).")
    ] = "local"
    address: Address = None
    workers: Annotated[int | None, typer.Option(min=1, help="Of Ray; local: 1, or 2 at most.")] = None
    cpus: Annotated[float | None, typer.Option(help="CPUs of a worker; may be a fraction.")] = None
    gpus: Annotated[float | None, typer.Option(help="GPUs of a worker; may be a fraction.")] = None

    def config(self) -> dict[str, Any]:
        """Return the fields of a ``BackendConfig`` that were given."""
        return given(
            kind=self.backend, address=self.address, workers=self.workers, cpus=self.cpus, gpus=self.gpus
        )


@app.command()
@flat
def run(
    *,
    asked: Asked,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Run this seed alone.")] = None,
    place: Place,
    resume: Resume = None,
    added: Added,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="A private Ed25519 key that signs the finished run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, how long, how much memory and disk.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the hospitals, fuse their models, evaluate at the unseen one; print the table, write the report.

    Ctrl-C ends the run after what is in flight, a second one at once; --resume goes on with it. The exit code
    is 1 where a method failed, 2 for what you can put right, 130 after Ctrl-C, 143 after SIGTERM.
    """
    with importing("fedmerge.workflows.run"):
        from fedmerge.experiment.interrupt import Stopped
        from fedmerge.workflows.run import run as run_experiment

    if dry_run:
        if resume is not None or asked.config is None:
            raise FedMergeError("--dry-run needs a configuration, and goes without --resume.")
        show_estimate(asked.config, asked.changes or [], seed, place.device, added.plugins or [], as_json)
        return
    if sign is not None:
        from fedmerge.storage import signature

        signer = signature.read_signing_key(sign)  # a wrong key is reported before hours of work
    try:
        with ends_in_order(), progress_bar(err, quiet=as_json) as progress:
            result = run_experiment(
                asked.config,
                changes=with_trackers(asked.changes, added.trackers),
                out=asked.folder,
                seed=seed,
                device=place.device,
                backend=place.config(),
                resume=resume,
                plugins=added.plugins or [],
                progress=progress,
            )
    except Stopped as stopped:
        say(err, str(stopped))
        raise typer.Exit(exit_code()) from None
    show_result(result, as_json)
    if sign is not None:
        signature.sign(result.folder, signer)
    end(result)


def show_estimate(
    config: str, changes: list[str], seed: int | None, device: str | None, plugins: list[str], as_json: bool
) -> None:
    """Print what a run would do and cost; nothing is trained or written."""
    from fedmerge.cli.estimates import estimate_lines, estimate_record
    from fedmerge.workflows.estimate import estimate

    with lines(err, lambda: "timing a few steps"):
        found = estimate(config, changes=changes, seed=seed, device=device, plugins=plugins)
    if as_json:
        print_json(estimate_record(found))
        return
    for line in estimate_lines(found):
        say(out, line)


def end(result: Result) -> None:
    """End the command with exit code 1 where rows are missing because methods failed."""
    if result.failed:
        say(err, f"{result.failed} of the methods failed and have no rows", style="red")
        raise typer.Exit(FAILED)


def show_result(result: Result, as_json: bool = False) -> None:
    """Print a result: table, answer, failures, and the paths of report and rows; or all of it as JSON."""
    from fedmerge.cli.tables import summary_tables
    from fedmerge.reports.failures import failure_list

    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "answer": result.answer,
                "provenance": result.provenance,
                "remarks": list(result.remarks),
                "failed": result.failed,
                "failures": json.loads(result.failures.to_json(orient="records")),
                "rows": json.loads(result.table.to_json(orient="records")),
            }
        )
        return
    for remark in result.remarks:
        say(err, f"note: {remark}")
    for table in summary_tables(result, out.width):
        out.print(table)
    say(out, f"answer:  {result.answer}")
    if "privacy" in result.provenance:
        say(out, f"privacy: {result.provenance['privacy']}.")
    if failures := failure_list(result.failures):
        say(err, failures["summary"])
        for row in failures["first"]:
            note = f" ({row['note']})" if row["note"] else ""
            say(err, f"  {row['site']}, {row['where']}: {row['reason']}{note}")
        if failures["more"]:
            say(err, f"  and {len(failures['more'])} more, in the report")
    say(out, f"report:  {result.folder / 'report.html'}")
    say(out, f"results: {result.folder / 'results.parquet'}")


@sites.command("list")
def list_cohorts(plugins: Plugins = None, as_json: Json = False) -> None:
    """List the cohorts that an experiment can name."""
    from fedmerge.cli.tables import cohorts_table
    from fedmerge.data import cohort_names, read_cohort
    from fedmerge.plugins import load_plugins

    load_plugins(plugins or [])
    cohorts = {name: read_cohort(name) for name in cohort_names()}
    if as_json:
        print_json({name: spec.model_dump(mode="json") for name, spec in cohorts.items()})
        return
    out.print(cohorts_table(cohorts))


@sites.command("show")
def show_cohort(
    cohort: Annotated[str, typer.Argument(help="A cohort's name, or a YAML file.")],
    picture: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The contact sheet. Default: COHORT.png in the current folder."),
    ] = None,
    seed: Seed = 0,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show a cohort: its hospitals, their images by class, remarks on them, and a contact sheet."""
    from fedmerge.cli.tables import cohort_table, site_record
    from fedmerge.data import build_cohort, read_cohort
    from fedmerge.data.checks.checks import remarks
    from fedmerge.plugins import load_plugins
    from fedmerge.reports import figures

    load_plugins(plugins or [])
    with lines(err, lambda: f"reading the images of {cohort}"):
        built = build_cohort(read_cohort(cohort), seed)
        path = Path(f"{built.name}.png") if picture is None else picture
        path = (path / f"{built.name}.png" if path.is_dir() else path).absolute()
        if not path.suffix:
            raise FedMergeError(f"'{path}' is no picture's name: end it in .png, .svg or .pdf.")
        sheet = figures.samples(built)
    try:
        write(path, lambda part: sheet.savefig(part, dpi=150, format=path.suffix[1:]))
    except ValueError as error:
        raise FedMergeError(
            f"the picture '{path}' cannot be written ({error}): choose another with --out."
        ) from None
    if as_json:
        records = [site_record(site) for site in built.sites]
        print_json(
            {
                "cohort": built.name,
                "picture": str(path),
                "classes": built.class_names,
                "sites": records,
                "remarks": list(remarks(built).values()),
            }
        )
        return
    for remark in remarks(built).values():
        say(err, f"note: {remark}")
    out.print(cohort_table(built))
    say(out, f"classes: {', '.join(built.class_names)}")
    say(out, f"picture: {path}")


@sites.command("export")
def export_cohort(
    cohort: Annotated[str, typer.Argument(help="A cohort's name, or a YAML file.")],
    folder: Annotated[Path, typer.Argument(help="Where to, new or empty.")],
    seed: Seed = 0,
    plugins: Plugins = None,
) -> None:
    """Divide a cohort to try a deployment: a folder for each hospital, with its images and its file."""
    from fedmerge.data import build_cohort, read_cohort
    from fedmerge.data.export import export
    from fedmerge.plugins import load_plugins

    load_plugins(plugins or [])
    with lines(err, lambda: f"writing the images of {cohort} into {folder}"):
        built = build_cohort(read_cohort(cohort), seed)
        server = export(built, folder)
    for site in built.sites:
        say(out, f"{site.name}: {folder / site.name / site.name}.yaml")
    say(out, f"the server's cohort: {server}")
