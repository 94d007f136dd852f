"""``report.html`` of a run: one self-contained page with the run's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedmerge.analysis import interval_rule, leaderboard
from fedmerge.data import Cohort
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.folder.results import Result, open_result
from fedmerge.experiment.kinds import REFERENCE, TRIED
from fedmerge.experiment.summary.summary import asked, clean, in_plain_words, mean_label, receiver
from fedmerge.reports import figures, page
from fedmerge.reports.calibration import joined, with_leaderboard
from fedmerge.reports.failures import failure_list
from fedmerge.reports.figures import NARROW
from fedmerge.reports.leaderboard import RULES, by_site, score_notes, score_table
from fedmerge.reports.page import Picture, picture, provenance_lines, records, write_page
from fedmerge.reports.registry import FIGURES
from fedmerge.reports.why import why_section

Meanwhile = Callable[..., "Future[Any] | None"]
"""Calls a function with arguments in another process; None where there is none."""
IN_THE_OTHER = ("reliability", "coefficients")
"""The figures that are drawn there: a little less than half of the work, because it has to read the run."""


def write_report(
    result: Result,
    path: Path | None = None,
    plugins: Sequence[str] = (),
    meanwhile: Meanwhile = lambda *call: None,
) -> Path:
    """Write the report to ``path``, by default ``report.html`` in the run's folder, and return its path.

    One file: styles, figures and the script that sorts tables are inside it, nothing is fetched, and without
    the script it reads the same. Text from the configuration and the data is escaped. Where the cohort
    holds no images, as of a run whose data are gone, the pictures that need them are left out. plugins: whose
    figures are on the page, besides the experiment's. meanwhile: takes figures to another process, which
    opens the run in its folder; what that cannot draw is drawn here.
    """
    there, seen = meanwhile(draw_figures, result.folder, IN_THE_OTHER), _compared(result)
    draws, drawn = _figures(result, seen), dict[str, Any]()
    contents = _contents(result, seen, plugins)
    for name, draw in draws.items():
        if there is None or name not in IN_THE_OTHER:
            drawn[name] = draw()
    if there is not None:
        try:
            drawn |= there.result()
        except Exception:  # that process alone could not, or this one meets it, too
            drawn |= {name: draws[name]() for name in IN_THE_OTHER}
    contents |= drawn | drawn["images"]
    return write_page("report.html.jinja", contents, path or result.folder / "report.html")


def draw_figures(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Draw some figures of the report of the run in a folder, by their names."""
    result = open_result(folder)
    draws = _figures(result, _compared(result))
    return {name: draws[name]() for name in names}


@dataclass(frozen=True)
class _Compared:
    """What the parts of the page compare. table: without shifted images. tried: the methods alone."""

    table: pd.DataFrame
    tried: pd.DataFrame
    board: pd.DataFrame
    sites: list[str]
    mean: str


def _compared(result: Result) -> _Compared:
    experiment, table = result.experiment, clean(result.table)
    sites, mean = list(dict.fromkeys(table["site"])), mean_label(experiment)
    if experiment.evaluation.mixed:
        members = federations(result.cohort, experiment)[0].members
        sites = [site.name for site in result.cohort.sites if site.name not in members]
    tried = table[table["kind"].isin(TRIED)]
    tried = table[table["kind"] != REFERENCE] if tried.empty else tried
    reference = mean if mean in set(tried["method"]) else None
    return _Compared(table, tried, leaderboard(tried, reference=reference, metric=result.metric), sites, mean)


def _figures(result: Result, seen: _Compared) -> dict[str, Callable[[], Any]]:
    """Return a function for each part of the page with figures; it draws them."""
    board, metric = seen.board, result.metric
    return {
        "accuracy": lambda: picture(figures.accuracy, figures.describe_accuracy, seen.table, metric=metric),
        "forest": lambda: _forest(seen.tried, board, seen.mean, metric),
        "why": lambda: why_section(result.diagnosis),
        "cost": lambda: picture(figures.cost, figures.describe_cost, board, "method", metric=metric),
        "reliability": lambda: _reliability(result, board),
        "rounds": lambda: picture(figures.rounds, figures.describe_rounds, result.history),
        "coefficients": lambda: _coefficients(result.coefficients),
        "images": lambda: _images(result.cohort, seen.sites),
    }


def _contents(result: Result, seen: _Compared, plugins: Sequence[str]) -> dict[str, Any]:
    experiment, place = result.experiment, receiver(result.experiment)
    return {
        "title": experiment.title or experiment.name,
        "asked": asked(experiment, result.cohort, seen.sites),
        "answer": result.answer,
        "plain": in_plain_words(result.table, seen.mean, place, result.metric),
        "receiver": place,
        "failures": failure_list(result.failures),
        "table": score_table(result),
        "remarks": score_notes(result),
        "by_site": by_site(seen.table, result.metric),
        "interval_rule": interval_rule(seen.table),
        "decisions": _decisions(result.decisions),
        "data_remarks": result.provenance.get("remarks", []),
        "provenance": provenance_lines(result.provenance, ("command", "remarks", *RULES)),
        "command": result.provenance.get("command", ""),
        "config": _config(result),
        "more": FIGURES.sections("run", result, [*experiment.plugins, *plugins]),
    }


def _images(cohort: Cohort, sites: list[str]) -> dict[str, Any]:
    """Return the figures that need the hospitals' images, or the reason why they are left out."""
    gone = (
        "The hospitals’ images are not on this machine, so the pictures of who took part, of the "
        "images and of their classes are left out; every number on this page is as measured."
    )
    if not all(len(site.everything) for site in cohort.sites):
        return {"map": None, "samples": None, "classes": None, "gone": gone}
    deployed, each = _as_deployed(cohort, sites)
    return {
        "map": picture(figures.federation_map, figures.describe_federation_map, deployed, each=each),
        "samples": picture(figures.samples, figures.describe_samples, deployed),
        "classes": picture(figures.class_shares, figures.describe_class_shares, deployed),
        "gone": "",
    }


def _forest(table: pd.DataFrame, board: pd.DataFrame, mean: str, metric: str) -> Picture | None:
    """Draw differences to mean merging, where several seeds or hospitals give them intervals."""
    several = table["seed"].nunique() > 1 or table["site"].nunique() > 1
    if mean not in set(table["method"]) or table["method"].nunique() < 2 or not several:
        return None
    return picture(figures.forest, figures.describe_forest, board, "method", mean, metric)


def _reliability(result: Result, board: pd.DataFrame) -> Picture | None:
    """Draw accuracy against confidence for the fused and adapted models."""
    frame = result.reliability
    if frame is None or frame.empty:
        return None
    frame = frame[frame["kind"] != REFERENCE]
    tried = frame[frame["kind"].isin(TRIED)]
    bins = with_leaderboard(joined(frame if tried.empty else tried, "method"), board, "method")
    return picture(figures.reliability, figures.describe_reliability, bins)


def _as_deployed(cohort: Cohort, sites: list[str]) -> tuple[Cohort, bool]:
    """Mark the run's targets in the cohort as unseen; return it, and whether each was a target in turn."""
    each = len(sites) == len(cohort.sites)
    marked = tuple(replace(site, unseen=site.name in sites and not each) for site in cohort.sites)
    return replace(cohort, sites=marked), each


def _coefficients(frame: pd.DataFrame) -> list[Picture]:
    """Draw a narrow figure for each test-time method and stream: two fit side by side on a wide screen."""
    pairs = frame[["method", "stream"]].drop_duplicates().itertuples(index=False) if len(frame) else ()
    drawn = []
    for method, stream in pairs:
        narrow = page.image_of(figures.coefficients, frame, stream, method, NARROW)
        drawn.append(Picture(narrow, narrow, figures.describe_coefficients(frame, stream, method).text))
    return drawn


def _decisions(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the trials of greedy methods, one list for each seed, site and method."""
    if frame.empty or "accepted" not in frame:
        return []
    trials = frame.dropna(subset=["accepted"])
    return [
        {"seed": seed, "site": site, "method": method, "trials": records(group)}
        for (seed, site, method), group in trials.groupby(["seed", "site", "method"], sort=False)
    ]


def _config(result: Result) -> str:
    """Return the resolved configuration as the run wrote it, else as the experiment holds it."""
    path = result.folder / "config.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return yaml.safe_dump(result.experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
