"""``fedmerge bench``: do every missing job of a study, with a live view of its progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmerge.cli.app import (
    FAILED,
    Added,
    Address,
    Changes,
    DeviceOrNone,
    Json,
    app,
    err,
    given,
    out,
    print_json,
    say,
    with_trackers,
)
from fedmerge.cli.ending import ends_in_order, exit_code
from fedmerge.cli.progress import clock, lines
from fedmerge.schema.option_groups import flat

if TYPE_CHECKING:
    from fedmerge.engine.events import Event, GraphProgress, Subscriber


@dataclass(frozen=True)
class Place:
    """Where the jobs of a study are done."""

    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs side by side. Default: 1; on Ray, all CPUs")
    ] = None
    backend: Annotated[
        str, typer.Option(help="Where jobs are done: local (this machine) or ray (a cluster).")
    ] = "local"
    address: Address = None
    cpus: Annotated[float | None, typer.Option(help="CPUs of a job on Ray; may be a fraction.")] = None
    gpus: Annotated[float | None, typer.Option(help="GPUs of a job on Ray; may be a fraction.")] = None
    device: DeviceOrNone = None

    @property
    def local(self) -> bool:
        """Whether jobs are done on this machine, whose processes are no matter of the backend."""
        return self.backend == "local"

    def config(self) -> dict[str, Any]:
        """Return the fields of a ``BackendConfig`` that were given."""
        workers = None if self.local else self.workers
        return given(kind=self.backend, address=self.address, workers=workers, cpus=self.cpus, gpus=self.gpus)


@app.command()
@flat
def bench(
    config: Annotated[str, typer.Argument(help="A study's YAML file, or the name of a shipped one.")],
    changes: Changes = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="The study's folder; goes on where it stopped. Default: runs/NAME"),
    ] = None,
    *,
    place: Place,
    retry: Annotated[bool, typer.Option("--retry", help="Do failed jobs again.")] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Accept a changed configuration; keep what it still needs.")
    ] = False,
    added: Added,
    as_json: Json = False,
) -> None:
    """Run a study: a matrix of experiments, each job once. If interrupted, the same command goes on.

    The exit code is 1 where rows failed, 2 for what you can put right, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    from fedmerge.workflows.bench import completion_cache

    changes, plugins = with_trackers(changes, added.trackers), added.plugins or []
    settled = _settled(config, changes, plugins, folder, retry)
    if settled is None:
        from fedmerge.cluster.config import BackendConfig
        from fedmerge.workflows.bench.bench import bench as run_bench
        from fedmerge.workflows.rewrite import write_again

        try:
            waits = None if place.local else BackendConfig.of(place.config()).waited_for
            with ends_in_order(), live_view(err, quiet=as_json, first=waits) as watch:
                study = run_bench(
                    config,
                    changes=changes,
                    out=folder,
                    workers=place.workers if place.local and place.workers is not None else 1,
                    backend=place.config(),
                    device=place.device,
                    retry=retry,
                    extend=extend,
                    plugins=plugins,
                    watch=watch,
                )
        except KeyboardInterrupt:
            say(err, "stopped: every finished job is kept, and the same command goes on.")
            raise typer.Exit(exit_code()) from None
        with lines(err, lambda: "drawing the report"):
            write_again(study.folder)
        settled = study.summary | {"answer": study.answer}
        completion_cache.add(study.folder, {"answer": settled["answer"]})
    study_folder = Path(settled["folder"])
    keys = ("folder", "answer", "jobs", "rows", "failed")
    if as_json:
        told = {key: settled[key] for key in keys if key in settled} | {"remarks": settled.get("remarks", [])}
        print_json(told | {"report": str(study_folder / "report.html")})
        _end(settled)
        return
    failed = settled["failed"]
    if "answer" in settled:
        say(out, f"answer:  {settled['answer']}")
    say(out, f"jobs:    {settled['jobs']}, rows: {settled['rows']}, failed: {sum(failed.values())}")
    for remark in settled.get("remarks", ()):
        say(err, f"note: {remark}")
    for reason, rows in failed.items():
        say(err, f"failed: {rows} x {reason} (--retry does them again)")
    say(out, f"report:  {study_folder / 'report.html'}")
    say(out, f"results: {study_folder / 'results.parquet'}")
    _end(settled)


def _end(settled: dict[str, Any]) -> None:
    if settled["failed"]:
        raise typer.Exit(FAILED)


def _settled(
    config: str, changes: list[str], plugins: list[str], folder: Path | None, retry: bool
) -> dict[str, Any] | None:
    """Return the receipt of this study if it is finished, without loading the training code; else None."""
    from fedmerge.workflows.bench import completion_cache

    study_folder = folder if folder is not None else Path("runs") / Path(config).stem
    found = completion_cache.valid(study_folder, completion_cache.request_of(config, changes, plugins))
    if found is None or (retry and found["failed"]) or not (study_folder / "report.html").exists():
        return None
    return found | {"folder": str(study_folder)}


@contextmanager
def live_view(console: Console, quiet: bool = False, first: str | None = None) -> Iterator[Subscriber]:
    """Yield a callback that draws the progress of a study; off a terminal, or if quiet, as lines of text.

    first: what goes on before the first task, besides reading the study.
    """
    view = _View(f"reading the study, {first}") if first else _View()
    if quiet or not console.is_terminal:
        with lines(console, view.line):
            yield view.take
        return
    with Live(view, console=console, refresh_per_second=4, transient=True):
        yield view.take


class _View:
    """The progress of a study; ``Live`` draws it at its own rate, so clocks go on between jobs."""

    def __init__(self, first: str = "reading the study") -> None:
        self._first = first
        self._latest: GraphProgress | None = None

    def take(self, event: Event) -> None:
        """Show the progress of this event from now on."""
        self._latest = event.progress

    def line(self) -> str:
        """Return the progress in a line."""
        progress = self._latest
        if progress is None:
            return self._first
        parts = [f"{progress.done + progress.failed} of {progress.jobs} jobs"]
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.seconds_left is not None:
            parts.append(f"about {clock(progress.seconds_left)} left")
        now = time.monotonic()
        running = [f"{label} ({clock(now - since)})" for label, since in list(progress.running.items())]
        return ", ".join(parts) + (f"; now {'; '.join(running)}" if running else "")

    def __rich__(self) -> Group:
        progress = self._latest
        if progress is None:
            return Group(Text(self._first))
        settled = progress.done + progress.failed
        line = Table.grid(padding=(0, 1))
        left = "" if progress.seconds_left is None else f"about {clock(progress.seconds_left)} left"
        failed = Text(f"{progress.failed} failed", style="red") if progress.failed else Text("")
        bar = ProgressBar(total=progress.jobs, completed=settled, width=30)
        line.add_row(bar, f"{settled} of {progress.jobs} jobs", left, failed)
        now = time.monotonic()
        running = [Text(f"  {label}, {clock(now - since)}") for label, since in progress.running.items()]
        last = (
            [Text(f"  last failure: {progress.last_failure}", style="red")] if progress.last_failure else []
        )
        return Group(line, *running, *last)
