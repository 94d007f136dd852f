"""The tables and sentences of the page on in-model merging, as Markdown, from a finished study.

Scores are in [0, 1], differences in points (hundredths), paired, with 95 % intervals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.pages import as_saved, markdown, marked, points, three
from benchmarks.studies.one_class import NO_GAIN, judged, named, noted, paired, scored
from fedmerge.analysis import interval_rule, leaderboard, robustness
from fedmerge.analysis.cube import finished, severities
from fedmerge.errors import FedMergeError
from fedmerge.experiment.formatting import listing, percent
from fedmerge.reports.figures.panels import metric_words
from fedmerge.reports.leaderboards import Leaderboards, leaderboards
from fedmerge.reports.study_summary import caution
from fedmerge.training import InMergeOptions
from fedmerge.workflows.bench.study import Study, open_study

SCORES = ["accuracy", "balanced_accuracy", "auroc", "ece", "brier"]
FIELD = "training.fine_tune.inmerge"


class Seen(NamedTuple):
    """A study, its leaderboards, the InMerge options of the levels that merge, and the filters merged."""

    study: Study
    found: Leaderboards
    options: dict[str, InMergeOptions]
    merges: pd.DataFrame

    @property
    def merging(self) -> list[str]:
        """The levels with in-model merging proper, by threshold from the highest."""
        similar = [level for level, options in self.options.items() if options.partner == "similar"]
        return sorted(similar, key=lambda level: -self.options[level].tau)

    @property
    def others(self) -> list[str]:
        """The levels without InMerge, but for the reference."""
        levels = self.study.config.axes[self.found.compare]
        return [level for level in levels if level not in self.options and level != self.found.reference]

    @property
    def strata(self) -> list[str]:
        """The columns that name a stratum."""
        return list(self.found.within)

    def rows(self, *levels: str, shifted: bool = False) -> pd.DataFrame:
        """The finished rows of these levels, of all without any: those as they are, or those under shift."""
        table = finished(self.found.table)
        table = table[(severities(table) > 0) == shifted]
        return table[table[self.found.compare].isin(levels)] if levels else table


def look_at(folder: Path) -> Seen:
    """Read a study's folder. Raises FedMergeError where it has no rows to compare."""
    study = open_study(folder)
    return seen_of(study, count_merges(study))


def seen_of(study: Study, merges: pd.DataFrame) -> Seen:
    """A study's scores and merges. Raises FedMergeError where it has no rows to compare."""
    study = judged(as_saved(study, SCORES))
    found = leaderboards(study)
    if found is None or found.reference is None:
        raise FedMergeError(f"nothing of the study in '{study.folder}' can be compared: finish it first.")
    levels = study.config.axes[found.compare]
    options = {level: InMergeOptions(**given[FIELD]) for level, given in levels.items() if given.get(FIELD)}
    return Seen(study, found, options, merges)


def count_merges(study: Study) -> pd.DataFrame:
    """Filters merged in each fine-tuning at each hospital: the axes, seed, site, merges, steps."""
    axes = list(study.config.axes)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place in study.done.drop_duplicates("job")[[*axes, "seed", "job"]].to_dict("records"):
        for need in _job(study, place.pop("job")).get("needs", ()):
            for past in _job(study, need).get("history", ()):
                if past["phase"] == "fine-tune":
                    row = place | {name: past[name] for name in ("site", "merges", "steps")}
                    rows[(*place.values(), past["site"])] = row
    return pd.DataFrame(rows.values(), columns=[*axes, "seed", "site", "merges", "steps"])


def merges_file(folder: Path, name: str) -> Path:
    """Where a study's merges stand beside its scores."""
    return folder / f"{name}-merges.csv"


def save_merges(seen: Seen, folder: Path) -> None:
    """Write NAME-merges.csv: merges and steps of a fine-tuning, the mean over seeds and hospitals."""
    means = seen.merges.groupby(list(seen.study.config.axes), sort=False)[["merges", "steps"]].mean()
    path = merges_file(folder, seen.study.config.name)
    means.reset_index().to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _job(study: Study, name: str) -> dict[str, Any]:
    path = study.folder / "jobs" / name / "job.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record(row: Mapping[str, Any]) -> str:
    return f"{row['wins']:.0f} / {row['losses']:.0f} / {row['ties']:.0f}"


def overall_table(seen: Seen) -> str:
    """Every level, best first: mean, paired difference, wins, losses, ties."""
    head = [seen.found.compare, f"mean {metric_words(seen.found.metric)}", "difference", "won / lost / tied"]
    rows = []
    for row in seen.found.overall.to_dict("records"):
        score = scored(three(row["mean"], row["low"], row["high"]), seen.rows(row["level"]))
        rows.append([f"{row['level']}{_star(row)}", score, *_against(seen, row)])
    return _noted(markdown(head, rows), seen, seen.rows())


def _noted(table: str, seen: Seen, rows: pd.DataFrame) -> str:
    """The table with a footnote on its marks."""
    return noted(table, rows, [str(seen.found.reference)], seen.found.compare)


def _star(row: Mapping[str, Any]) -> str:
    return "" if row["complete"] else " \\*"


def _against(seen: Seen, row: Mapping[str, Any]) -> list[str]:
    if row["level"] == seen.found.reference:
        return ["", ""]
    return [paired(marked(row), seen.rows(row["level"], str(seen.found.reference))), record(row)]


def strata_table(seen: Seen, levels: Sequence[str], records: bool = False) -> str:
    """A line a stratum: the reference's mean, and each level's paired difference."""
    found = seen.found
    head = [*seen.strata, str(found.reference)]
    for level in levels:
        head += [level, "won / lost / tied"] if records else [level]
    lines = []
    for key in found.strata:
        rows = {row["level"]: row for row in found.board(key).to_dict("records")}
        base = rows[found.reference]
        line = [str(base[name]) for name in seen.strata]
        reference = str(found.reference)
        line.append(scored(three(base["mean"], base["low"], base["high"]), _here(seen, key, reference)))
        for level in levels:
            row = rows.get(level)
            beside = paired(marked(row), _here(seen, key, level, reference)) if row else "not run"
            line += [beside] + ([record(row) if row else ""] if records else [])
        lines.append(line)
    table = markdown(head, lines, len(seen.strata))
    return _noted(table, seen, seen.rows(*levels, str(found.reference)))


def _here(seen: Seen, key: Sequence[str], *levels: str) -> pd.DataFrame:
    """The rows of these levels in one stratum."""
    rows = seen.rows(*levels)
    for name, value in zip(seen.strata, key, strict=True):
        rows = rows[rows[name].astype(str) == str(value)]
    return rows


def shift_table(seen: Seen) -> str:
    """Balanced error as it is and under shift, and relative to the reference's."""
    found = seen.found
    frame = robustness(found.folded, found.compare, found.reference)
    complete = found.overall.set_index("level")["complete"]
    head = [found.compare, "clean error", "shifted error", f"shifted error relative to {found.reference}"]
    rows = []
    for row in frame.sort_values("relative_error", kind="stable").to_dict("records"):
        value, low, high = (row[f"relative_error{end}"] for end in ("", "_low", "_high"))
        relative = percent(value) + (f" ({percent(low)} to {percent(high)})" if low == low else "")
        name = f"{row['level']}{_star({'complete': complete[row['level']]})}"
        clean, shifted = seen.rows(row["level"]), seen.rows(row["level"], shifted=True)
        errors = [scored(percent(row["clean_error"]), clean), scored(percent(row["shifted_error"]), shifted)]
        beside = seen.rows(row["level"], str(found.reference), shifted=True)
        rows.append([name, *errors, "" if row["level"] == found.reference else paired(relative, beside)])
    return _noted(markdown(head, rows), seen, seen.rows(shifted=True))


def merged(seen: Seen, **where: Any) -> str:
    """Filters merged per fine-tuning of one hospital, on average; in brackets per step."""
    rows = seen.merges
    for name, value in where.items():
        rows = rows[rows[name].astype(str) == str(value)]
    if rows.empty:
        return "–"
    return f"{rows['merges'].mean():.0f} ({rows['merges'].sum() / rows['steps'].sum():.2f})"


def merges_table(seen: Seen) -> str:
    """Filters merged, a line for each combination of the other axes."""
    axes = [name for name in seen.strata if name in seen.study.config.axes]
    keys = seen.merges[axes].drop_duplicates().to_dict("records") if axes else [{}]
    compare, levels = seen.found.compare, list(seen.options)
    rows = [
        [*map(str, key.values()), *(merged(seen, **{compare: level}, **key) for level in levels)]
        for key in keys
    ]
    return markdown([*axes, *levels], rows, len(axes))


def grid_table(seen: Seen) -> str:
    """A line a setting, in the order of the configuration."""
    found = seen.found
    rows = {row["level"]: row for row in found.overall.to_dict("records")}
    lines = []
    for level in seen.study.config.axes[found.compare]:
        if level not in rows:
            continue
        row, chosen = rows[level], seen.options.get(level)
        settings, number = ["", "", "", ""], ""
        if chosen is not None:
            skip = "default" if chosen.skip is None else f"{chosen.skip:g}"
            settings = [f"{chosen.tau:g}", f"{chosen.p:g}", f"{chosen.alpha:g}", skip]
            number = merged(seen, **{found.compare: level})
        score = scored(three(row["mean"], row["low"], row["high"]), seen.rows(level))
        lines.append([level + _star(row), *settings, number, score, *_against(seen, row)])
    head = ["setting", "τ", "p", "α", "skip", "filters merged", metric_words(found.metric)]
    return _noted(markdown([*head, "difference", "won / lost / tied"], lines), seen, seen.rows())


def answer(seen: Seen) -> str:
    """What in-model merging gains and loses: over all strata in one sentence, then by threshold in one."""
    found = seen.found
    rows = {row["level"]: row for row in found.overall.to_dict("records")}
    parts = []
    for level in seen.merging:
        board = found.leaderboards[found.leaderboards["level"] == level].dropna(subset=["difference"])
        gains, losses = (board["difference_low"] > 0).sum(), (board["difference_high"] < 0).sum()
        parts.append(
            f"threshold {seen.options[level].tau:g} gains in {gains} and loses in {losses} of {len(board)} "
            f"and changes the mean by {points(rows[level])} points"
        )
    settings = f"In settings of {listing(seen.strata)}" if seen.strata else "In one setting"
    return (
        f"{_verdict(seen, rows)} {settings}, counted where the 95 % interval of the paired difference holds "
        f"no zero, {'; '.join(parts)}.{_constant(seen)}"
    )


def _constant(seen: Seen) -> str:
    """How often the reference and the merged networks are constant, without and under shift."""
    names = {name: f"`{name}`" for name in (str(seen.found.reference), *seen.merging)}
    compare = seen.found.compare
    clean, shifted = (
        seen.rows(shifted=side).assign(method=lambda rows: rows[compare]) for side in (False, True)
    )
    parts = [named(clean, names, ", without shift"), named(shifted, names, ", under shift")]
    return " ".join(["", *filter(None, parts), *([NO_GAIN] if any(parts) else [])])


def _verdict(seen: Seen, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the mean over all strata rose or fell beyond its interval."""
    by_tau = [(f"{seen.options[level].tau:g}", rows[level]) for level in seen.merging]
    up = [tau for tau, row in by_tau if row["difference_low"] > 0]
    down = [tau for tau, row in by_tau if row["difference_high"] < 0]
    where = listing(up) if up else listing([tau for tau, _ in by_tau], "or")
    return (
        f"On average over the settings it was run in, in-model merging {'raised' if up else 'did not raise'} "
        f"{metric_words(seen.found.metric)} above that of {seen.found.reference} fine-tuning beyond its 95 % "
        f"interval at threshold {where}{f', and lowered it at threshold {listing(down)}' if down else ''}."
    )


def control(seen: Seen) -> str:
    """In-model merging against the same with random partners, over all strata together."""
    found, lines = seen.found, []
    for level, chosen in seen.options.items():
        twin = chosen.model_copy(update={"partner": "similar"})
        same = [name for name in seen.merging if seen.options[name] == twin]
        if chosen.partner == "random" and same:
            board = leaderboard(found.folded, found.compare, level, found.metric).set_index("level")
            row = board.loc[same[0]]
            verdict = "The interval holds zero: similarity made no difference that this study can tell."
            if row["difference_low"] > 0 or row["difference_high"] < 0:
                verdict = "The interval holds no zero."
            elif math.isnan(row["difference_low"]):
                verdict = "There is no interval."
            rows = seen.rows().assign(method=lambda rows: rows[found.compare])
            constant = named(rows, {name: name for name in (same[0], level)})
            lines.append(f"{same[0]} minus {level}: {points(row)} points. {verdict} {constant}".rstrip())
    return "\n".join(lines) or "No control with random partners was run."


def rules(seen: Seen) -> str:
    """How the intervals were made, for one stratum and for all together, and how many there are."""
    found = seen.found
    alone, together = interval_rule(found.table), interval_rule(found.folded)
    lines = [f"- {alone}"]
    if together != alone:
        lines = [f"- In one setting: {alone}", f"- Over all settings, a data set being a site: {together}"]
    return "\n".join([*lines, f"- {caution(found)}"])
