"""``fedmerge tune``: choose an option of a test-time method on the hospitals that trained in a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli.app import DeviceOrNone, Json, Plugins, app, err, out, print_json, say
from fedmerge.cli.progress import progress_bar
from fedmerge.schema.option_groups import flat

if TYPE_CHECKING:
    from rich.table import Table

    from fedmerge.experiment.configuration.entries import MethodConfig
    from fedmerge.testtime.tuning import Tuning


@dataclass(frozen=True)
class Asked:
    """Which option of which method is chosen, among which values, on which streams."""

    method: Annotated[str, typer.Option(help="A test-time method, or its label in the run.")] = (
        "entropy-adaptive"
    )
    option: Annotated[str, typer.Option(help="The option to choose; of a group: norms.prior.")] = (
        "coefficients.temperature"
    )
    values: Annotated[
        str | None, typer.Option(help="Candidates, by commas; a temperature has its own. inf is infinity.")
    ] = None
    stream: Annotated[
        str | None, typer.Option(help="One of the run's streams, or iid. Default: all that do not drift.")
    ] = None

    @property
    def tuned(self) -> dict[str, Any]:
        """The option and its values, as an entry's ``tune`` has them."""
        from fedmerge.schema.yaml_text import read_yaml

        if self.values is None:
            return {"option": self.option}
        return {
            "option": self.option,
            "values": [read_yaml(part, "--values") for part in self.values.split(",")],
        }


@app.command()
@flat
def tune(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run that keeps its models.")],
    target: Annotated[
        str | None, typer.Option(help="For which unseen site; needed where there are several.")
    ] = None,
    *,
    asked: Asked,
    seed: Annotated[int | None, typer.Option(help="One of the run's seeds. Default: the first.")] = None,
    device: DeviceOrNone = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials side by side, in processes.")] = 1,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Tune an option on the run's training hospitals, each held out once, without any data of the target.

    What was tried is kept in RUN/tuning: the same command again, or one with more values, does the rest.
    """
    from fedmerge.experiment.stages.tune import tuning_log
    from fedmerge.plugins import load_plugins
    from fedmerge.workflows.tune import tune_run

    load_plugins(plugins or [])
    with progress_bar(err, quiet=as_json) as progress:
        tuned = tune_run(
            run,
            target=target,
            method=asked.method,
            option=asked.tuned,
            stream=asked.stream,
            seed=seed,
            device=device,
            workers=workers,
            progress=progress,
        )
    import yaml

    entry, found = tuned.entry, tuned.tuning
    line = yaml.safe_dump(
        {"testtime": [chosen_entry(entry, found)]}, default_flow_style=None, sort_keys=False, width=10_000
    ).strip()
    if as_json:
        told = {"option": found.option, "testtime": line, "scores": tuning_log(found)}
        print_json(told | {"made": tuned.made, "remarks": list(tuned.remarks)})
        return
    for remark in tuned.remarks:
        say(err, f"note: {remark}")
    out.print(tuning_table(found))
    say(out, "for the configuration:")
    say(out, line)


def chosen_entry(entry: MethodConfig, found: Tuning) -> dict[str, Any]:
    """Return the entry for a configuration: the settings of ``entry`` and the tuned option's value."""
    from fedmerge.experiment.stages.tune import entry_with

    return entry_with(entry, found.option, found.chosen)


def tuning_table(found: Tuning) -> Table:
    """Make a table of accuracy in per cent by value and held-out source, the mean first; mark the choice."""
    from rich import box
    from rich.table import Table

    from fedmerge.testtime.tuning import as_text

    names = list(next(iter(found.table.values())))
    table = Table(box=box.SIMPLE_HEAD, title="accuracy at the held-out hospital, %", title_justify="left")
    table.add_column(found.option)
    for name in ("mean", *names):
        table.add_column(name, justify="right")
    for value, scores in found.table.items():
        mark = " <- chosen" if value == found.chosen else ""
        cells = [f"{100 * share:.1f}" for share in (found.means[value], *(scores[name] for name in names))]
        table.add_row(f"{as_text(value)}{mark}", *cells)
    return table
