"""The tables of the page on fusion, as Markdown. Accuracies in per cent, differences in points, paired."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.pages import markdown, marked
from benchmarks.studies.fusion_scores import (
    BEST,
    CHANCE,
    ENSEMBLE,
    ORACLES,
    PARENTS,
    WORST,
    Seen,
    board,
    contrast,
    folded,
    given,
    missing,
)
from benchmarks.studies.one_class import noted, paired, scored
from fedmerge.analysis import difference as paired_difference
from fedmerge.analysis import interval_rule
from fedmerge.experiment.formatting import count, listing
from fedmerge.workflows.bench.study import Study

HANDFUL = [
    PARENTS, BEST, WORST, "mean", "mean-repair", "rebasin", "ot", "hf", "kf", "kf-gradient", "distill",
    "refit-head", ENSEMBLE,
]  # fmt: skip
ABLATIONS = [
    ("kf", "kf-paper"),
    ("kf", "kf-no-refit"),
    ("kf", "hf"),
    ("kf", "kf-gradient"),
    ("rebasin-repair", "rebasin"),
    ("rebasin", "rebasin-weights"),
    ("mean-repair", "mean"),
]
AROUND_START = ["task-arithmetic", "ties", "dare", "model-stock", "fisher", "regmean", "greedy"]
ONE_HOSPITAL, SAME_SIZE = "400 of one hospital", "400"
NOTHING = "Nothing of this is finished."
ALONE, ENDS = (ONE_HOSPITAL, SAME_SIZE), ("1600", "25")


def share(value: float, low: float, high: float) -> str:
    """A score in per cent with its interval."""
    return f"{100 * value:.1f}" + (f" ({100 * low:.1f} to {100 * high:.1f})" if low == low else "")


def difference(seen: Seen, first: str, second: str) -> str:
    """A paired difference, bold where its interval holds no zero; empty where there is none to give."""
    row = contrast(seen, first, second) if first != second else None
    return paired(marked(row), seen.rows_of(first, second)) if row is not None else ""


def methods_table(seen: Seen, start: str) -> str:
    """Every method over all data, parents and splits of one start, best first."""
    part = seen.of(start=start)
    if part.rows.empty:
        return NOTHING
    rows = board(part, None).drop(index=CHANCE, errors="ignore").dropna(subset=["mean"])
    against = {other: board(part, other) for other in (PARENTS, BEST, "mean", "distill")}
    balanced = board(part, None, metric="balanced_accuracy")["mean"]
    lines = []
    for method, row in rows.iterrows():
        name = str(method)
        star = "" if row["complete"] else " \\*"
        score = scored(share(row["mean"], row["low"], row["high"]), part.rows_of(name))
        lone = name in (*ORACLES, PARENTS)
        others = [
            "" if lone or name == other else paired(_cell(each, name), part.rows_of(name, other))
            for other, each in against.items()
        ]
        even = scored(f"{100 * balanced[name]:.1f}", part.rows_of(name))
        lines.append([f"{label(name)}{star}", score, even, *others])
    head = ["method", "accuracy, %", "balanced, %", *(f"− {other}" for other in against)]
    return noted(markdown(head, lines), part.rows_of(), list(against))


def _cell(known: pd.DataFrame, method: str) -> str:
    """A level's difference to the leaderboard's reference; empty where there is none."""
    row = known.loc[method]
    return marked(row) if row["difference"] == row["difference"] else ""


def label(method: str) -> str:
    """Return a level's name on the page; oracles are marked as such."""
    return f"{method}, oracle" if method in ORACLES else method


def settings_table(seen: Seen, data: str, start: str) -> str:
    """Accuracy of a handful of methods, a column for each number of parents and split."""
    part = seen.of(data=data, start=start)
    columns = [
        (parents, split)
        for split in seen.levels("split")
        for parents in seen.levels("parents")
        if len(part.of(parents=parents, split=split).rows)
    ]
    if not columns:
        return NOTHING
    places = [part.of(parents=parents, split=split) for parents, split in columns]
    boards = [board(place, None) for place in places]
    lines = []
    for method in HANDFUL:
        cells = []
        for place, each in zip(places, boards, strict=True):
            row = each.loc[method] if method in each.index else None
            if row is None or row["mean"] != row["mean"]:
                cells.append("–")
                continue
            cells.append(scored(share(row["mean"], row["low"], row["high"]), place.rows_of(method)))
        lines.append([label(method), *cells])
    table = markdown([start, *(f"{parents}, {split}" for parents, split in columns)], lines)
    return noted(table, part.rows_of(*HANDFUL))


def controls_table(seen: Seen, start: str) -> str:
    """KF against parents, ensemble and controls, a column for each data set and split."""
    part = seen.of(start=start)
    places = [
        (data, split)
        for data in seen.levels("data")
        for split in seen.levels("split")
        if len(part.of(data=data, split=split).rows)
    ]
    rows = [
        [
            f"kf − {other}",
            *(difference(part.of(data=data, split=split), "kf", other) for data, split in places),
        ]
        for other in (PARENTS, BEST, ENSEMBLE, "distill", "refit-head")
    ]
    table = markdown([f"{start} start", *(f"{data}, {split}" for data, split in places)], rows)
    names = (PARENTS, BEST, ENSEMBLE, "distill", "refit-head")
    return noted(table, part.rows_of("kf", *names), ["kf", *names])


def ablation_table(seen: Seen) -> str:
    """Paired differences of variants: by start, and from independent starts by number of parents."""
    parts = {f"{start} start": seen.of(start=start) for start in seen.levels("start")}
    apart = seen.of(start="independent")
    parts |= {f"independent, {n} parents": apart.of(parents=n) for n in seen.levels("parents")}
    rows = [
        [f"{first} − {second}", *(difference(part, first, second) for part in parts.values())]
        for first, second in ABLATIONS
    ]
    names = list(dict.fromkeys(name for pair in ABLATIONS for name in pair))
    return noted(markdown(["difference", *parts], rows), seen.rows_of(*names), names)


def around_start_table(seen: Seen) -> str:
    """Methods for a shared start: accuracy, and the difference to plain averaging, for all and by data."""
    part = seen.of(start="shared")
    if part.rows.empty:
        return NOTHING
    known = board(part, None)
    rows = []
    for method in ["mean", *AROUND_START]:
        if method not in known.index:
            continue
        row = known.loc[method]
        by_data = [difference(part.of(data=data), method, "mean") for data in seen.levels("data")]
        score = scored(share(row["mean"], row["low"], row["high"]), part.rows_of(method))
        star = "" if row["complete"] else " \\*"
        line = [f"{method}{star}", score, difference(part, method, "mean"), *by_data]
        rows.append([*line, difference(part, method, PARENTS)])
    columns = [f"− mean, {data}" for data in seen.levels("data")]
    head = ["method", "accuracy, %", "− mean, all", *columns, "− parents (mean), all"]
    return noted(markdown(head, rows), part.rows_of("mean", *AROUND_START, PARENTS), ["mean", PARENTS])


def samples_table(seen: Seen, parents: str) -> str:
    """Accuracy by fusion images; the last column is one hospital's images against as many of the union."""
    part = seen.of(parents=parents)
    sizes = seen.levels("images")
    rows = []
    for method in dict.fromkeys(part.rows["method"]):
        if method in (*ORACLES, CHANCE):
            continue
        own = part._replace(rows=part.rows[part.rows["method"] == method])
        known = board(own, None, "images")
        cells = [
            scored(share(*known.loc[size, ["mean", "low", "high"]]), own.of(images=size).rows)
            if size in known.index
            else "–"
            for size in sizes
        ]
        pairs = [_paired(own, *pair) for pair in (ENDS, ALONE)]
        rows.append((_order(known), [method, *cells, *pairs]))
    if not rows:
        return NOTHING
    head = [f"{parents} parents", *sizes, *(f"{first} − {second}" for first, second in (ENDS, ALONE))]
    table = markdown(head, [line for _, line in sorted(rows, key=lambda pair: pair[0])])
    return noted(table, part.rows[~part.rows["method"].isin([*ORACLES, CHANCE])])


def _paired(own: Seen, first: str, second: str) -> str:
    """One method with one fusion set minus the same with another, paired by seed."""
    if not {first, second} <= set(own.rows["images"]):
        return ""
    row = paired_difference(folded(own, "images"), first, second, "images")
    if row["difference"] != row["difference"]:
        return ""
    return paired(marked(row), own.rows[own.rows["images"].isin([first, second])])


def _order(known: pd.DataFrame) -> float:
    """Best first, by the mean at the size that every comparison has."""
    return -float(known.loc[SAME_SIZE, "mean"]) if SAME_SIZE in known.index else 0.0


def failures(studies: Sequence[Study]) -> str:
    """Jobs that failed: how many, of which method, and why."""
    lines = []
    for study in studies:
        failed = study.table[study.table["status"] == "failed"]
        grouped = failed.groupby(["method", "reason"], sort=False, dropna=False)
        for (method, reason), rows in grouped:
            axes = [axis for axis in study.config.axes if rows[axis].nunique() == 1]
            where = listing([f"{axis} {rows[axis].iloc[0]}" for axis in axes]) if axes else "several settings"
            lines.append(
                f"- `{study.config.name}`: {method} failed {count(len(rows), 'time')} ({where}): {reason}"
            )
    return "\n".join(lines) or "No fusion failed."


def gaps(studies: Sequence[Study]) -> str:
    """The settings left out because some of their rows are missing."""
    lines = []
    for study in studies:
        settings = [
            f"{', '.join(place.values())} ({found} of {planned} fusions)"
            for place, found, planned in missing(study)
        ]
        lines += [f"`{study.config.name}`: {'; '.join(settings)}."] if settings else []
    text = "**Unfinished** when this page was written, and left out of everything on it:"
    return " ".join([text, *lines]) if lines else "Every setting of both studies is finished."


def fusion_set(studies: Sequence[Study]) -> str:
    """How many fusion images there were, of those asked for."""
    parts = []
    for study in studies:
        runs = given(study)
        if runs.empty:
            parts.append(f"- `{study.config.name}`: no record.")
            continue
        short = runs[runs["held"] < runs["asked"]]
        whole = f"{len(runs) - len(short)} of {count(len(runs), 'run')}"
        text = f"- `{study.config.name}`: in {whole} all that were asked for"
        if len(short):
            fewest = short.loc[(short["held"] / short["asked"]).idxmin()]
            where = ", ".join(str(fewest[axis]) for axis in study.config.axes)
            text += (
                f"; in the others the hospitals held fewer, {_range(short['asked'] - short['held'])} images "
                f"short, the most in {where}: {fewest['held']} of {fewest['asked']}"
            )
        parts.append(f"{text}.")
    return "\n".join(parts)


def tested(seen: Seen) -> str:
    """How many images each data set's unseen hospital was scored on."""
    parts = []
    for data in seen.levels("data"):
        numbers = seen.of(data=data).single["n"].astype(int)
        parts.append(f"{data} {_range(numbers)}")
    return f"Images at the unseen hospital, by seed and number of hospitals: {', '.join(parts)}."


def _range(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return str(high) if low == high else f"{low} to {high}"


def rules(seen: Seen) -> str:
    """How the intervals were made, in one setting and over all."""
    within = seen.rows[seen.rows["method"] == "mean"]
    together = folded(seen._replace(rows=within))
    lines = [f"- In one setting: {interval_rule(within)}"]
    return "\n".join([*lines, f"- Over settings, a data set being a site: {interval_rule(together)}"])
