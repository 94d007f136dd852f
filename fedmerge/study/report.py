"""``report.html``: one self-contained page that shows what a run was worth."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from fedmerge.data import Cohort
from fedmerge.study import figures
from fedmerge.study.answer import answer, asked
from fedmerge.study.figures import NARROW, WIDE, Caption, render
from fedmerge.study.results import Result
from fedmerge.study.scoreboard import RULES, by_site, score_columns, score_groups, score_notes

LARGEST_SVG = 150_000


@dataclass(frozen=True)
class Picture:
    """A figure as the page holds it: two data URIs, for a wide and a narrow screen, and words."""

    wide: str
    narrow: str
    alt: str


def write_report(result: Result) -> Path:
    """Write ``report.html`` into the run's folder and return its path.

    One file: styles and figures are inside it, nothing is fetched, no script runs. Text from the
    configuration and the data is escaped.
    """
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    path = result.folder / "report.html"
    page = environment.get_template("report.html.jinja").render(**_contents(result))
    path.write_text(page, encoding="utf-8")
    return path


def _contents(result: Result) -> dict[str, Any]:
    experiment, table = result.experiment, result.table
    sites = list(dict.fromkeys(table["site"]))
    cohort, each = _as_deployed(result.cohort, sites)
    mean = next((entry.label for entry in experiment.fusion if entry.method == "mean"), "mean")
    return {
        "title": experiment.title or experiment.name,
        "asked": asked(experiment, result.cohort, sites),
        "answer": answer(table, mean),
        "failures": _records(result.failures),
        "columns": score_columns(table),
        "groups": score_groups(result),
        "notes": score_notes(result),
        "by_site": by_site(table),
        "accuracy": _picture(figures.accuracy, figures.describe_accuracy, table),
        "map": _picture(figures.federation_map, figures.describe_federation_map, cohort, each=each),
        "samples": _picture(figures.samples, figures.describe_samples, cohort),
        "classes": _picture(figures.class_shares, figures.describe_class_shares, cohort),
        "rounds": _picture(figures.rounds, figures.describe_rounds, result.history),
        "coefficients": _coefficients(result.coefficients),
        "decisions": _decisions(result.decisions),
        "provenance": _provenance(result),
        "command": result.provenance.get("command", ""),
        "config": _config(result),
    }


def _as_deployed(cohort: Cohort, sites: list[str]) -> tuple[Cohort, bool]:
    """The cohort with those sites unseen that the run deployed at; whether that was each in turn."""
    each = len(sites) == len(cohort.sites)
    marked = tuple(replace(site, unseen=site.name in sites and not each) for site in cohort.sites)
    return replace(cohort, sites=marked), each


def _picture(
    draw: Callable[..., Figure], describe: Callable[..., Caption], *what: Any, **options: Any
) -> Picture:
    wide, narrow = (_uri(draw(*what, width=width, **options)) for width in (WIDE, NARROW))
    return Picture(wide, narrow, describe(*what, **options).text)


def _uri(figure: Figure) -> str:
    """The figure as a data URI: SVG, or PNG where the SVG is large (many images in it)."""
    drawn = render(figure, "svg")
    if len(drawn) <= LARGEST_SVG:
        return f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
    return f"data:image/png;base64,{base64.b64encode(render(figure, 'png')).decode()}"


def _coefficients(frame: pd.DataFrame) -> list[Picture]:
    """One figure for each test-time method and stream, narrow: two stand side by side on a wide screen."""
    pairs = frame[["method", "stream"]].drop_duplicates().itertuples(index=False) if len(frame) else ()
    drawn = []
    for method, stream in pairs:
        narrow = _uri(figures.coefficients(frame, stream, method, NARROW))
        drawn.append(Picture(narrow, narrow, figures.describe_coefficients(frame, stream, method).text))
    return drawn


def _decisions(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The trials of greedy methods, one list for each seed, site and method."""
    if frame.empty or "accepted" not in frame:
        return []
    trials = frame.dropna(subset=["accepted"])
    return [
        {"seed": seed, "site": site, "method": method, "trials": _records(group)}
        for (seed, site, method), group in trials.groupby(["seed", "site", "method"], sort=False)
    ]


def _provenance(result: Result) -> list[tuple[str, str]]:
    """Names and values, without what stands elsewhere; a mapping inside becomes one line."""
    lines = []
    for key, value in result.provenance.items():
        if key == "command" or key in RULES:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {inner}" for name, inner in value.items())
        lines.append((str(key).replace("_", " "), str(value)))
    return lines


def _config(result: Result) -> str:
    """The resolved configuration as the run wrote it, else as the experiment holds it."""
    path = result.folder / "config.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return yaml.safe_dump(result.experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
