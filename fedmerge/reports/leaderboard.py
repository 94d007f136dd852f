"""The score table of a run's report: the best of each column marked, and the rules beneath."""

from __future__ import annotations

import math

import pandas as pd

from fedmerge.analysis import learning, learning_at, uneven
from fedmerge.analysis.metrics import METRICS, Scale, scale_of
from fedmerge.experiment.folder.results import Result, summary_metrics
from fedmerge.experiment.formatting import count, listing, percent, score_text
from fedmerge.experiment.kinds import KINDS, TRIED
from fedmerge.experiment.summary.summary import clean, receiver
from fedmerge.experiment.summary.unlearned import remark
from fedmerge.merging import FUSION
from fedmerge.reports.tables import Cell, Group, Line, Table, heading
from fedmerge.tasks import TASKS
from fedmerge.testtime import TESTTIME

STREAMS = {
    "iid": "iid: images arrive in any order",
    "dirichlet": "dirichlet-δ: classes arrive in bursts, longer ones for smaller δ; milder than note-δ",
    "note": "note-δ: NOTE's stream, a chunk a class and runs of one class in each, longer ones for smaller δ",
    "temporal": "temporal: one class after the other",
    "recurring": "recurring-n: one class after the other, n times over",
    "drift": "drift-shift: any order, while the scanner's shift grows from severity 1 to 5 and fades again; "
    "the images differ, so a fixed model is measured on them too",
}
RULES = {
    "selection": "Selection",
    "batch_norm": "Batch norm",
    "federation": "Rounds",
    "privacy": "Privacy",
    "auroc": "AUROC",
    "ece": "ECE (lower is better)",
}
"""The rules in a run's provenance that stand beneath the table."""


SCORED = tuple(dict.fromkeys(task.headline for task in TASKS.values()))
"""The scores that options are tuned by, one a task."""


def score_table(result: Result) -> Table:
    """Return the table of ``Result.summary`` by kind, with the mean accuracy over streams first."""
    summary = result.summary()
    streams = list(dict.fromkeys(result.table["stream"]))
    numbers = summary.assign(mean=summary[streams].mean(axis=1))
    headline = scale_of(result.headline)
    beside = [name for name in summary_metrics(result.headline) if name in summary]
    columns = ["mean", *streams, *beside, "forward_passes"]
    able = numbers["kind"].isin(TRIED) & numbers["worth"]
    best = _best(numbers[able], columns)
    titles = _titles(result)
    groups = []
    for kind in KINDS:
        lines = []
        for method, row in numbers[numbers["kind"] == kind].iterrows():
            cells = [
                Cell(
                    _text(column, row[column], row["interval"], headline),
                    bool(able[str(method)]) and _same(row[column], best[column]),
                    float(row[column]),
                )
                for column in columns
            ]
            notes = [note for note in (titles.get(str(method), ""), remark(row)) if note]
            lines.append(Line(str(method), "; ".join(notes), cells))
        if lines:
            groups.append(Group(heading(kind, receiver(result.experiment)), lines))
    headings = {
        headline.heading[:1].upper() + headline.heading[1:]: ["mean", *streams],
        "Mean over streams": [scale_of(name).heading for name in (*beside, "forward_passes")],
    }
    falling = tuple(scale_of(name).heading for name in (*beside, "forward_passes") if scale_of(name).lower)
    return Table("Scores of every method", "Method", headings, groups, falling)


def by_site(table: pd.DataFrame, metric: str = "accuracy") -> Table | None:
    """Return each method's mean score at each hospital, in per cent; None for one hospital."""
    sites = list(dict.fromkeys(table["site"]))
    if len(sites) < 2:
        return None
    values = table.groupby(["method", "site"], sort=False)[metric].mean().unstack("site")[sites]
    known = learning(table, metric=metric)
    at = learning_at(table)["constant"] > 0.5
    constant = {(str(method), str(site)) for method, site in at[at].index}
    lines = [
        Line(
            str(method),
            remark(known.loc[str(method)]),
            [
                Cell(
                    _text(s, row[s], math.nan, scale_of(metric)),
                    value=float(row[s]),
                    detail="one class" * ((str(method), str(s)) in constant),
                )
                for s in sites
            ],
        )
        for method, row in values.iterrows()
    ]
    words = scale_of(metric).words
    label = f"{words[:1].upper()}{words[1:]} at each hospital"
    return Table(label, "Method", {"": sites}, [Group("", lines)])


def score_notes(result: Result) -> list[str]:
    """Return notes on the table: averaging, intervals, streams, and the rules of the run."""
    table, rules, place = clean(result.table), result.provenance, receiver(result.experiment)
    sites, seeds = table["site"].nunique(), table["seed"].nunique()
    notes = [
        f"Each number is a mean over {count(seeds, 'seed')} and {count(sites, place)}. A fixed model "
        "answers each image by itself, so the order of a stream changes nothing for it.",
        *_ranked_by(result),
        "Bold: best of the fused and adapted models. It is picked on this very table, so its lead is a "
        "little flattered; the best single hospital, too, is known only afterwards.",
        "± is half the 95 % t interval of the mean over seeds." if seeds > 1 else "One seed: no interval.",
    ]
    kinds = dict.fromkeys(str(name).partition("-")[0] for name in table["stream"])
    notes.append(f"Streams. {'; '.join(STREAMS.get(kind, kind) for kind in kinds)}.")
    notes += [f"{name}: {rules[key]}." for key, name in RULES.items() if rules.get(key)]
    notes += _tuned(result.decisions)
    fewest = table["auroc_classes"].min()
    if fewest < result.cohort.n_classes:
        notes.append(
            f"AUROC is over {fewest:.0f} of the {result.cohort.n_classes} classes where fewest can be scored."
        )
    return notes


def _ranked_by(result: Result) -> list[str]:
    """Return notes on the score that ranks, where it is not accuracy, and on constant classifiers."""
    notes = []
    if result.metric != "accuracy":
        shares = [f"{percent(share)} at {site}" for site, share in uneven(result.table).items()]
        why = f": the commonest class has {listing(shares)}, so accuracy flatters it" if shares else ""
        notes.append(f"Ranked by {scale_of(result.metric).words}{why}.")
    if "constant" not in result.table or result.table["constant"].isna().all():
        return [*notes, "This run is of a version that did not look for constant classifiers."]
    if result.cohort.task.many:
        return [
            *notes,
            "One class for every image: a predictor that gives all images the same. It is never best, nor is "
            "what is no better than guessing: macro AUROC at most two standard errors of random ranks above "
            "one half.",
        ]
    return [
        *notes,
        "One class for every image: a constant classifier. It is never best, nor is what is no better than "
        "guessing: balanced accuracy at most two standard errors of guessing above one over the number of "
        "classes.",
    ]


def _tuned(decisions: pd.DataFrame) -> list[str]:
    """Return notes on options tuned on the hospitals that trained: the value for each target and seed."""
    if "chosen" not in decisions:
        return []
    notes = []
    chosen = decisions[decisions["chosen"].eq(True)]
    for (method, option), rows in chosen.groupby(["method", "option"], sort=False):
        scored = next(name for name in SCORED if name in rows and rows[name].notna().any())
        means = rows.groupby(["seed", "site", "value"], sort=False)[scored].mean().reset_index()
        each = [
            f"{row['value']} for {row['site']} (seed {row['seed']}; {score_text(scored, row[scored])} at "
            "held-out hospitals)"
            for row in means.to_dict("records")
        ]
        notes.append(
            f"Tuned: {option} of {method} on the training hospitals' validation images, each held out once, "
            f"nothing of the target: {listing(each)}."
        )
    return notes


def _titles(result: Result) -> dict[str, str]:
    """Return the title of the method behind each label."""
    titles: dict[str, str] = {}
    for entries, registry in ((result.experiment.fusion, FUSION), (result.experiment.testtime, TESTTIME)):
        titles |= {entry.label: registry[entry.method].title for entry in entries if entry.method in registry}
    return titles


def _best(numbers: pd.DataFrame, columns: list[str]) -> dict[str, float]:
    """Return the best value of each column; NaN where all are equal or the column is a cost."""
    best = {}
    for column in columns:
        values = numbers[column].dropna()
        good = values.min() if scale_of(column).lower else values.max()
        best[column] = float(good) if values.nunique() > 1 and column != "forward_passes" else math.nan
    return best


def _same(value: float, best: float) -> bool:
    return math.isclose(value, best, abs_tol=1e-12)


def _text(column: str, value: float, interval: float, headline: Scale) -> str:
    if math.isnan(value):
        return "–"
    if column in METRICS or column == "forward_passes":
        return scale_of(column).text(value)
    text = headline.text(value)
    return f"{text} ± {headline.text(interval)}" if column == "mean" and not math.isnan(interval) else text
