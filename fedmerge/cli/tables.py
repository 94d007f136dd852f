"""Tables for the terminal, and the same content as records for ``--json``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from rich import box
from rich.table import Table

from fedmerge.analysis.metrics import scale_of
from fedmerge.data import Cohort, CohortSpec, Site
from fedmerge.experiment.folder.results import Result, summary_metrics
from fedmerge.experiment.formatting import listing
from fedmerge.experiment.summary.unlearned import CONSTANT, marked
from fedmerge.plugins import origin_of
from fedmerge.registry import Method
from fedmerge.tasks import TASKS


def summary_tables(result: Result, width: int) -> list[Table]:
    """Make a run's tables: the headline score by stream, then the other scores; best first in each kind.

    A constant classifier has a mark at its name. Where it is wider than ``width`` letters it is several
    tables, the methods in each; no word is broken.
    """
    summary = result.summary()
    columns, names = (
        _score_columns(result),
        [marked(str(m), row["constant"]) for m, row in summary.iterrows()],
    )
    first = max(map(len, ["method", *names]))
    parts = _fitting(columns, width - first - 2)
    tables = [Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, min_width=min(width, 40)) for _ in parts]
    for table, part in zip(tables, parts, strict=True):
        table.add_column("method", no_wrap=True)
        for heading, _ in part:
            table.add_column(heading, justify="right", no_wrap=True)
        kinds = [*summary["kind"]]
        for number, name in enumerate(names):
            if number and kinds[number] != kinds[number - 1]:
                table.add_section()
            table.add_row(name, *(cells[number] for _, cells in part))
    unseen = ", ".join(sorted(result.table["site"].unique()))
    shown = scale_of(result.headline).heading.replace(", ", " in ")
    tables[0].title = f"{result.experiment.title or result.experiment.name}: {shown} at {unseen}"
    tables[-1].caption = _caption(result)
    return tables


def _score_columns(result: Result) -> list[tuple[str, list[str]]]:
    """Return the columns after the method's name: heading, a word a line, and cells."""
    summary = result.summary()
    streams = list(dict.fromkeys(result.table["stream"]))
    headline = scale_of(result.headline)
    made = [(name, [headline.text(value) for value in summary[name]]) for name in streams]
    made += [
        (str(scale_of(name).short), [scale_of(name).text(value) for value in summary[name]])
        for name in summary_metrics(result.headline)
        if name in summary
    ]
    made.append(("passes", [f"{value:g}" for value in summary["forward_passes"]]))
    if result.table["seed"].nunique() > 1:
        made.append(("±", [headline.text(value) for value in summary["interval"]]))
    return [(re.sub("[- ]", "\n", heading), cells) for heading, cells in made]


def _fitting(columns: list[tuple[str, list[str]]], width: int) -> list[list[tuple[str, list[str]]]]:
    """Divide columns, in order, into groups that fit into ``width`` letters; each has one at least."""
    groups: list[list[tuple[str, list[str]]]] = [[]]
    room = width
    for heading, cells in columns:
        needs = 1 + max(map(len, [*heading.split("\n"), *cells]))
        if needs > room and groups[-1]:
            groups.append([])
            room = width
        groups[-1].append((heading, cells))
        room -= needs
    return groups


def _caption(result: Result) -> str:
    summary, seeds = result.summary(), result.table["seed"].nunique()
    interval = f"{seeds} seeds: ± is the 95 % t interval." if seeds > 1 else "One seed: no interval."
    notes = [] if result.metric == "accuracy" else [f"Ranked by {scale_of(result.metric).words}."]
    notes += [f"{CONSTANT}."] if (summary["constant"] > 0.5).any() else []
    beside = [name for name in summary_metrics(result.headline) if name in summary]
    named = listing([scale_of(name).heading.removesuffix(", %") for name in beside])
    return " ".join([f"{named[:1].upper()}{named[1:]} are means over the streams.", interval, *notes])


def methods_table(known: Sequence[Method]) -> Table:
    """Make a table of methods: what they do and need."""
    table = Table("method", "group", "what it does", "needs", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.columns[0].no_wrap = True
    for method in known:
        table.add_row(method.name, method.group, method.summary, ", ".join(method.needs_with({}).names()))
    return table


def method_text(method: Method) -> str:
    """Describe a method: title, paper, needs, options with their defaults, and its docstring."""
    options = [
        f"  {name}: {default!r}"
        for option, field in method.options.model_fields.items()
        for name, default in _flat(option, field.default)
    ]
    needs = f"needs: {', '.join(method.needs.names()) or 'nothing but the models'}"
    misfits = [f"not for task {task}: {why}" for task in TASKS if (why := method.misfit(task))]
    return "\n".join(
        [
            f"{method.name}: {method.title} ({method.group})",
            *([f"paper: {method.paper}"] if method.paper else []),
            *([needs, *misfits] if method.group != "model" else []),
            *([f"plug-in: {method.origin.name}"] if method.origin is not None else []),
            "options and defaults:" if options else "no options",
            *options,
            "",
            inspect.getdoc(method.call) or "",
        ]
    )


def _flat(name: str, default: Any) -> list[tuple[str, Any]]:
    """Return an option and its default; of a group, those of its fields."""
    if not is_dataclass(default):
        return [(name, default)]
    return [(f"{name}.{each.name}", getattr(default, each.name)) for each in fields(default)]


def other_doors() -> dict[str, Any]:
    """Return the registries that hold no methods, by what they hold."""
    from fedmerge.analysis import METRICS
    from fedmerge.data import SOURCES
    from fedmerge.reports.registry import FIGURES
    from fedmerge.trackers import TRACKERS

    return {"metrics": METRICS, "sources": SOURCES, "trackers": TRACKERS, "figures": FIGURES}


def entry_text(kind: str, entry: Any) -> str:
    """Describe a metric, source, tracker or figure: its name, its plug-in, and its docstring."""
    origin = origin_of(entry.call)
    lines = [f"{entry.name} ({kind})", *([f"plug-in: {origin.name}"] if origin else [])]
    return "\n".join([*lines, "", inspect.getdoc(entry.call) or ""])


def method_record(method: Method) -> dict[str, Any]:
    """Return a method for ``--json``, its options as JSON Schema."""
    return {
        "name": method.name,
        "title": method.title,
        "group": method.group,
        "summary": method.summary,
        "paper": method.paper,
        "needs": method.needs.names(),
        "plugin": None if method.origin is None else method.origin.name,
        "options": method.options.model_json_schema().get("properties", {}),
    }


def cohorts_table(cohorts: Mapping[str, CohortSpec]) -> Table:
    """Make a table of the cohorts by name."""
    table = Table("cohort", "title", "hospitals", "unseen")
    for name, spec in cohorts.items():
        unseen = ", ".join(site.name for site in spec.sites if site.unseen)
        table.add_row(name, spec.title, ", ".join(site.name for site in spec.sites), unseen)
    return table


def cohort_table(cohort: Cohort) -> Table:
    """Make a table of one cohort, hospital by hospital."""
    table = Table(title=cohort.title)
    table.add_column("hospital", no_wrap=True)
    for name in ("source", "scanner", "train", "val", "test", "images by class"):
        table.add_column(name)
    for site in cohort.sites:
        record = site_record(site)
        name = f"{site.name} (unseen)" if site.unseen else site.name
        sizes = (str(record[key]) for key in ("train", "val", "test"))
        table.add_row(name, site.source, record["scanner"], *sizes, " ".join(map(str, record["classes"])))
    return table


def site_record(site: Site) -> dict[str, Any]:
    """Return a hospital for ``--json``; ``classes`` counts all its images by class."""
    return {
        "hospital": site.name,
        "unseen": site.unseen,
        "source": site.source,
        "scanner": ", ".join(f"{shift.kind} {shift.severity}" for shift in site.scanner) or "as it is",
        "train": len(site.train),
        "val": len(site.val),
        "test": len(site.test),
        "classes": site.everything.class_counts(site.n_classes).tolist(),
    }
