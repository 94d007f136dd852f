"""The coefficients that a test-time method gave the sources in each batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedmerge.experiment.formatting import count, percent
from fedmerge.reports.figures.style import PALE, WIDE, Caption, colours, figure, message, styled

MOST = 8


@styled
def coefficients(
    coefficients: pd.DataFrame, stream: str, method: str | None = None, width: float = WIDE
) -> Figure:
    """Draw stacked areas over the batches of one stream: coefficients of the encoder, and of the head.

    The first seed and the first unseen hospital are shown; ``method`` is by default the first one. Of more
    than eight sources the seven with the largest coefficients are shown, and the others as one.
    """
    caption = describe_coefficients(coefficients, stream, method)
    rows = _chosen(coefficients, stream, method)
    if rows.empty:
        return message(width, caption.title)
    stacked = width < 5.5
    made = figure(width, 4.4 if stacked else 2.6, caption.title)
    panels = made.subplots(2, 1, sharex=True) if stacked else made.subplots(1, 2, sharey=True)
    for axes, part in zip(panels, ("encoder", "head"), strict=True):
        _areas(axes, _largest(rows).pivot_table(index="batch", columns="source", values=part, sort=False))
        axes.set_title(f"{part.capitalize()}")
        axes.label_outer()
    panels[0].set_ylabel("coefficient (sums to 1)")
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(3 if stacked else 6, len(labels)))
    return made


def describe_coefficients(coefficients: pd.DataFrame, stream: str, method: str | None = None) -> Caption:
    """Describe the coefficients in words: means over the batches, and the largest swing."""
    rows = _chosen(coefficients, stream, method)
    if rows.empty:
        return Caption(f"No coefficients on the stream {stream}", "No test-time method recorded any.")
    first = rows.iloc[0]
    means = rows.groupby("source", sort=False)[["encoder", "head"]].mean()
    swing = rows.groupby("source", sort=False)["encoder"].agg(lambda values: values.max() - values.min())
    top = str(means["encoder"].idxmax())
    encoder, head = (percent(means[part].to_dict()[top], 0) for part in ("encoder", "head"))
    title = (
        f"{stream}: {first['method']} gives {top} the largest part of the encoder at {first['site']}, "
        f"{encoder} on average, and {head} of the head"
    )
    each = "; ".join(f"{name} {row['encoder']:.2f} and {row['head']:.2f}" for name, row in means.iterrows())
    detail = (
        f"Mean coefficients of encoder and head over {count(rows['batch'].nunique(), 'batch', 'batches')} "
        f"(seed {first['seed']}): {each}. Largest swing of one source in the encoder: {swing.max():.2f} "
        f"({swing.idxmax()})."
    )
    return Caption(title, detail)


def _chosen(coefficients: pd.DataFrame, stream: str, method: str | None) -> pd.DataFrame:
    rows = coefficients[coefficients["stream"] == stream] if len(coefficients) else coefficients
    if method is not None and len(rows):
        rows = rows[rows["method"] == method]
    for column in ("method", "seed", "site"):
        if len(rows):
            rows = rows[rows[column] == rows[column].iloc[0]]
    return rows


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows; of more than eight sources, all but the seven largest are added up."""
    totals = rows.groupby("source")[["encoder", "head"]].sum().sum(axis=1).sort_values(ascending=False)
    if len(totals) <= MOST:
        return rows
    rest = f"{len(totals) - MOST + 1} others"
    names = rows["source"].where(rows["source"].isin(totals.index[: MOST - 1]), rest)
    named = rows.assign(source=names, last=names == rest).sort_values(["batch", "last"], kind="stable")
    return named.groupby(["batch", "source"], sort=False)[["encoder", "head"]].sum().reset_index()


def _areas(axes: Axes, values: pd.DataFrame) -> None:
    """Draw each batch one step wide, centred on its number, so that a single batch is visible, too."""
    start = int(values.index.min()) + 1
    edges = np.repeat(np.arange(start, start + len(values) + 1), 2)[1:-1] - 0.5
    shade = {name: PALE if name.endswith(" others") else c for name, c in colours(values.columns).items()}
    axes.stackplot(
        edges, np.repeat(values.to_numpy(), 2, axis=0).T, labels=list(values.columns),
        colors=[shade[name] for name in values.columns], edgecolor="white", linewidth=0.4,
    )  # fmt: skip
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), xlabel="batch of the stream")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.grid(False)
