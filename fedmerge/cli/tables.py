"""Tables for the terminal, and the same content as records for ``--json``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
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


def summary_table(result: Result) -> Table:
    """Make a run's table: accuracy in per cent by stream, then the other scores; best first in each kind.

    A constant classifier has a mark at its name.
    """
    summary = result.summary()
    streams = list(dict.fromkeys(result.table["stream"]))
    seeds, unseen = result.table["seed"].nunique(), ", ".join(sorted(result.table["site"].unique()))
    interval = f"{seeds} seeds: ± is the 95 % t interval." if seeds > 1 else "One seed: no interval."
    notes = [] if result.metric == "accuracy" else [f"Ranked by {result.metric.replace('_', ' ')}."]
    notes += [f"{CONSTANT}."] if (summary["constant"] > 0.5).any() else []
    beside = [name for name in summary_metrics() if name in summary]
    named = listing([scale_of(name).heading.removesuffix(", %") for name in beside])
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        title=f"{result.experiment.title or result.experiment.name}: accuracy in % at {unseen}",
        caption=" ".join([f"{named[:1].upper()}{named[1:]} are means over the streams.", interval, *notes]),
    )
    table.add_column("method", no_wrap=True)
    heads = [str(scale_of(name).short) for name in beside]
    for name in (*streams, *heads, "passes", *(["±"] if seeds > 1 else [])):
        table.add_column(re.sub("[- ]", "\n", name), justify="right", no_wrap=True)
    previous = None
    for method, row in summary.iterrows():
        if previous not in (None, row["kind"]):
            table.add_section()
        previous = row["kind"]
        cells = [f"{100 * row[name]:.1f}" for name in streams]
        cells += [*(scale_of(name).text(row[name]) for name in beside), f"{row['forward_passes']:g}"]
        if seeds > 1:
            cells.append(f"{100 * row['interval']:.1f}")
        table.add_row(marked(str(method), row["constant"]), *cells)
    return table


def methods_table(known: Sequence[Method]) -> Table:
    """Make a table of methods: what they do and need."""
    table = Table("method", "group", "what it does", "needs", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.columns[0].no_wrap = True
    for method in known:
        table.add_row(method.name, method.group, method.summary, ", ".join(method.needs_with({}).names()))
    return table


def method_text(method: Method) -> str:
    """Describe a method: title, paper, needs, options with their defaults, and its docstring."""
    options = [f"  {name}: {field.default!r}" for name, field in method.options.model_fields.items()]
    needs = f"needs: {', '.join(method.needs.names()) or 'nothing but the models'}"
    return "\n".join(
        [
            f"{method.name}: {method.title} ({method.group})",
            *([f"paper: {method.paper}"] if method.paper else []),
            *([needs] if method.group != "model" else []),
            *([f"plug-in: {method.origin.name}"] if method.origin is not None else []),
            "options and defaults:" if options else "no options",
            *options,
            "",
            inspect.getdoc(method.call) or "",
        ]
    )


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
