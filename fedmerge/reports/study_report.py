"""``report.html`` of a study: question, answer, caution, tables and figures on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedmerge.analysis import by_site, interval_rule, robustness, severity_curve, uneven
from fedmerge.analysis.cube import finished, severities
from fedmerge.errors import FedMergeError
from fedmerge.experiment.formatting import count, listing, percent
from fedmerge.reports import figures
from fedmerge.reports.calibration import joined, with_leaderboard
from fedmerge.reports.figures.panels import MOST_PANELS, plain
from fedmerge.reports.leaderboard_tables import board_table, contrast_table, failed_groups, robustness_table
from fedmerge.reports.leaderboards import Leaderboards, StudyLike, leaderboards
from fedmerge.reports.page import Picture, picture, provenance_lines, write_page
from fedmerge.reports.registry import FIGURES
from fedmerge.reports.study_summary import caution, study_answer, study_question

MOST_STRATA, OPEN_STRATA = 24, 3
"""The most strata whose tables are on the page, and the most whose tables are unfolded."""
MOST_LINES = 40
"""The most strata in a forest plot of one line each."""
MOST_SITES = 20
"""The most hospitals in the heat map: those where the levels do worst."""
MOST_CURVES = 8
"""The most levels in the reliability diagram and the severity curves: the reference and the best."""


def write_study_report(study: StudyLike, path: Path | None = None, plugins: Sequence[str] = ()) -> Path:
    """Write the report to ``path``, by default ``report.html`` in the study's folder, and return its path.

    It is one file, like a run's report. However large the study, there are at most eight figures; the page
    says what is left out where it would stand. plugins: whose figures are on it, too, besides the study's.
    """
    return write_page("study.html.jinja", _contents(study, plugins), path or study.folder / "report.html")


def _contents(study: StudyLike, plugins: Sequence[str]) -> dict[str, Any]:
    config, found = study.config, leaderboards(study)
    failed = (
        study.table[study.table["status"] == "failed"] if "status" in study.table else study.table.iloc[:0]
    )
    contents: dict[str, Any] = {
        "title": getattr(config, "title", "") or config.name,
        "asked": study_question(config, found),
        "answer": study_answer(found),
        "caution": caution(found) if found else "",
        "jobs": _jobs(study.table, failed),
        "failures": failed_groups(failed),
        "data_remarks": study.provenance.get("remarks", []),
        "leaderboards": found,
        "provenance": _provenance(study),
        "command": study.provenance.get("command", f"fedmerge bench {study.folder / 'study.yaml'}"),
        "config": _config(study),
        "more": FIGURES.sections("study", study, [*getattr(config, "plugins", ()), *plugins]),
    }
    return contents | (_numbers(study, found) if found else {})


def _numbers(study: StudyLike, s: Leaderboards) -> dict[str, Any]:
    """Return all contents that need finished jobs: tables with their rules, and figures."""
    rules = _interval_rules(s)
    strata = [
        {
            "name": ", ".join(key),
            "table": board_table(s, s.board(key), f"Leaderboard of {', '.join(key)}"),
            "rule": rules[key],
        }
        for key in s.strata[:MOST_STRATA]
    ]
    more = len(s.strata) - len(strata)
    shifted = _shifted(s)
    return {
        "overall": board_table(s, s.overall, "Leaderboard"),
        "rules": [*_selection(s), interval_rule(s.folded)],
        "strata": strata,
        "unfolded": len(strata) <= OPEN_STRATA,
        "left_out": f"{count(more, 'more setting')} are in results.parquet." if more > 0 else "",
        "forest": _forest(s),
        "strata_forest": _strata_forest(s),
        "contrast": contrast_table(s),
        "strata_rules": list(dict.fromkeys(rules.values())),
        "cost": _cost(s),
        "reliability": _reliability(study, s),
        "sites": _sites(s),
        "more_sites": max(finished(s.folded)["site"].nunique() - MOST_SITES, 0),
        "severity": shifted[0] if shifted else None,
        "robustness": shifted[1] if shifted else None,
        "chosen": _chosen(s),
    }


def _interval_rules(s: Leaderboards) -> dict[tuple[str, ...], str]:
    """Return the interval rule of each stratum, which depends on the seeds and hospitals that finished."""
    if not s.within:
        return {}
    within = list(s.within)
    places = finished(s.table)[[*within, "seed", "site"]].drop_duplicates()
    return {tuple(map(str, key)): interval_rule(part) for key, part in places.groupby(within, sort=False)}


def _forest(s: Leaderboards) -> Picture | None:
    """Draw paired differences over all strata together; None for one level alone, which the answer has."""
    if s.reference is None or len(s.tried(s.overall)) < 2 or (s.contrast and s.within):
        return None
    what = (s.tried(s.overall), s.compare, s.reference, s.metric)
    return picture(figures.forest, figures.describe_forest, *what)


def _strata_forest(s: Leaderboards) -> Picture | None:
    """Draw paired differences stratum by stratum: small panels, or for one level a line for each stratum."""
    if s.reference is None or not s.within or len(s.strata) > (MOST_LINES if s.contrast else MOST_PANELS):
        return None
    board, compare = s.tried(s.leaderboards), s.compare
    if s.contrast:
        board, compare = board[board["level"] == s.contrast].copy(), "setting"
        board["level"] = s.contrast + ": " + board[list(s.within)].agg(", ".join, axis=1)
        board = board.drop(columns=list(s.within))
    return picture(figures.forest, figures.describe_forest, board, compare, s.reference, s.metric)


def _cost(s: Leaderboards) -> Picture | None:
    """Draw cost against the metric; None where all levels cost the same."""
    board = s.tried(s.overall)
    for by in ("forward_passes", "training_seconds"):
        if by in board and board[by].round(1).nunique() > 1:
            return picture(figures.cost, figures.describe_cost, board, s.compare, by, metric=s.metric)
    return None


def _reliability(study: StudyLike, s: Leaderboards) -> Picture | None:
    frame = study.reliability
    if frame is None or frame.empty or s.compare not in frame:
        return None
    frame = frame.assign(**{s.compare: frame[s.compare].astype(str)})
    bins = with_leaderboard(
        joined(frame[frame[s.compare].isin(_leading(s))], s.compare), s.overall, s.compare
    )
    return picture(figures.reliability, figures.describe_reliability, bins) if len(bins) else None


def _sites(s: Leaderboards) -> Picture | None:
    """Draw the heat map of hospitals and levels; None for one hospital."""
    if finished(s.folded)["site"].nunique() < 2:
        return None
    alone = [level for level, kind in s.kinds.items() if kind == "alone"]
    shown = s.folded[~s.folded[s.compare].isin(alone)] if len(alone) > MOST_CURVES else s.folded
    frame = by_site(shown, s.compare, s.metric)
    hardest = (s.sign * frame["mean"]).groupby(frame["site"]).mean().nsmallest(MOST_SITES).index
    frame = frame[frame["site"].isin(hardest)]
    return picture(figures.site_scores, figures.describe_site_scores, frame, s.compare, metric=s.metric)


def _shifted(s: Leaderboards) -> tuple[Picture, Any] | None:
    """Return severity curves and the table of errors; None where no image was seen under scanner shift."""
    done = finished(s.folded)
    if not severities(done).any():
        return None
    metric = "balanced_accuracy"
    rows = done[done[s.compare].isin(_leading(s))]
    curve = with_leaderboard(severity_curve(rows, s.compare, metric), s.overall, "level")
    drawn = picture(figures.severity, figures.describe_severity, curve, s.compare, metric)
    return drawn, robustness_table(s, robustness(done, s.compare, s.reference, metric))


def _leading(s: Leaderboards) -> list[str]:
    """Return the reference and the best levels, as many as a figure holds."""
    names = [*([s.reference] if s.reference else []), *s.whole(s.overall)["level"]]
    return list(dict.fromkeys(names))[:MOST_CURVES]


def _selection(s: Leaderboards) -> list[str]:
    """Return the rules of selection and ranking, in words."""
    able = "the fused and adapted methods" if s.kinds else "the levels"
    lines = [f"Bold: best of {able} that finished everywhere and are above chance."]
    if s.chosen.empty:
        lines.append("Selection: nothing was chosen; every setting that was run is in the table.")
    else:
        lines.append(
            "Selection: swept settings are chosen by the validation score at the hospitals that trained, for "
            "each setting of the others; never by a test score."
        )
    if s.skipped:
        lines.append(f"Left out, for they have no validation score to be chosen by: {listing(s.skipped)}.")
    return lines + _ranked_by(s)


def _ranked_by(s: Leaderboards) -> list[str]:
    """Return the reason why balanced accuracy ranks, and what a constant classifier is."""
    lines = []
    if s.metric == "balanced_accuracy" and (shares := uneven(s.table)):
        most = max(shares, key=lambda site: shares[site])
        lines.append(
            f"Ranked by balanced accuracy: classes are uneven at {count(len(shares), 'hospital')} (at {most} "
            f"the commonest has {percent(shares[most])}), and accuracy flatters the commonest."
        )
    if s.overall["constant"].isna().all():
        return [*lines, "These rows are of a version that did not look for constant classifiers."]
    return [*lines, "One class for every image: a constant classifier, which is never best."]


def _chosen(s: Leaderboards) -> dict[str, Any] | None:
    """Return the choices of validation, as a table of text."""
    if s.chosen.empty:
        return None
    shown = s.chosen.drop(columns="validation").astype(str)
    rows = [
        [*row, f"{100 * score:.1f}"]
        for row, score in zip(shown.to_numpy(), s.chosen["validation"], strict=True)
    ]
    return {
        "columns": [plain(str(name)) for name in shown.columns],
        "rows": rows[:MOST_STRATA],
        "more": max(len(rows) - MOST_STRATA, 0),
    }


def _jobs(table: pd.DataFrame, failed: pd.DataFrame) -> str:
    """Say how many jobs with rows are done, how many failed, and the number of measurements."""
    name = "job" if "job" in table else "config_hash"
    bad = failed[name].nunique()
    rows = count(len(table) - len(failed), "measurement")
    return f"{count(table[name].nunique() - bad, 'job')} done, {bad} failed; {rows}."


def _provenance(study: StudyLike) -> list[tuple[str, str]]:
    lines = provenance_lines(study.provenance, ("command", "remarks"))
    hashes = sorted(map(str, study.table["config_hash"].dropna().unique()))
    more = f" and {len(hashes) - 6} more" if len(hashes) > 6 else ""
    return [*lines, ("configuration hashes", ", ".join(hashes[:6]) + more)]


def _config(study: StudyLike) -> str:
    """Return the configuration as the study wrote it, else from the object in memory."""
    path = study.folder / "study.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    dump: Callable[..., Any] | None = getattr(study.config, "model_dump", None)
    data = dump(mode="json") if dump else dict(vars(study.config))
    try:
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise FedMergeError(f"the study's configuration cannot be written as YAML: {error}.") from None
