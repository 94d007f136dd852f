"""The tables of the page on unseen hospitals by the size of a batch, and of long streams."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.pages import markdown
from benchmarks.studies.unseen_scores import BATCHES, FEDERATED, METRIC, average, board, read
from benchmarks.studies.unseen_tables import STREAMS, share
from fedmerge.reports.figures.panels import signed

MORE_STREAMS = {"note-0.01": "long bursts (NOTE 0.01)", "recurring-3": "recurring", "drift-contrast": "drift"}
LONG = "long"


def sizes(results: Path) -> str:
    """Return balanced accuracy by method and size of a batch, over hospitals and streams, best at 64 first.

    Beside 1 and 64 the paired difference from the federated model with its interval over hospitals.
    """
    seen = {size: read(results, parts) for size, parts in BATCHES.items() if size != LONG}
    table = pd.DataFrame({size: average(each)["average"] for size, each in seen.items()})
    known = {size: board(seen[size], FEDERATED) for size in ("1", "64")}
    head = ["method", *seen, "− federated, batches of 1", "− federated, batches of 64"]
    body = []
    for name in table.sort_values("64", ascending=False).index:
        beside = ["" if name == FEDERATED else _difference(each.loc[name]) for each in known.values()]
        body.append([f"`{name}`", *(share(value) for value in table.loc[name]), *beside])
    return markdown(head, body)


def long_streams(results: Path) -> str:
    """Return balanced accuracy by method and order of up to 2,000 images in batches of 64."""
    rows = read(results, BATCHES[LONG]).working.rows
    means = rows.groupby(["method", "stream", "site"], sort=False)[METRIC].mean()
    table = means.groupby(["method", "stream"]).mean().unstack("stream")
    named = STREAMS | MORE_STREAMS
    streams = [*(name for name in named if name in table), *(name for name in table if name not in named)]
    table = table[streams].assign(average=table[streams].mean(axis=1)).sort_values("average", ascending=False)
    head = ["method", *(named.get(name, name) for name in streams), "average"]
    return markdown(head, [[f"`{name}`", *map(share, row)] for name, row in table.iterrows()])


def _difference(row: pd.Series) -> str:
    low, high = (signed(row[f"difference_{end}"], 1) for end in ("low", "high"))
    return f"{signed(row['difference'], 1)} ({low} to {high})"
