"""What In-Model Merging does to a network's filters: merges, effective rank, similarity.

In all frames the layers stand in the order of the network; rows of the same epoch and layer (of several
seeds) are averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedmerge.experiment.formatting import count, listing
from fedmerge.reports.figures.panels import MOST_LINES, head, in_a_row, line_styles, panels, shortened
from fedmerge.reports.figures.style import FAINT, PALETTE, WIDE, Caption, figure, message, styled

RUNS = {"with": PALETTE[3], "without": PALETTE[0]}
MOST_HISTOGRAMS = 4


@styled
def merges(frame: pd.DataFrame, width: float = WIDE) -> Figure:
    """Draw how often a layer's filters are merged in an epoch: merges over filters, a line for each layer.

    ``frame`` has epoch, layer, merges and filters. Of more than eight layers it is a heat map.
    """
    caption = describe_merges(frame)
    if frame.empty:
        return message(width, caption.title)
    table, label = _per_filter(frame), "merges per filter and epoch"
    if len(table) > MOST_LINES:
        return _heat(table, caption.title, label, width, "Blues")
    look = line_styles([str(layer) for layer in table.index])
    legend = [Line2D([], [], label=layer, **_marked(look[layer])) for layer in look]
    made, (axes,) = panels(width, 2.7, 1, caption.title, "epoch", legend=legend)
    for layer, values in table.iterrows():
        axes.plot(values.index, values, **_marked(look[str(layer)]))
    _epochs(axes)
    axes.set_ylim(0, None)
    made.supylabel(label, fontsize=9)
    return made


def describe_merges(frame: pd.DataFrame) -> Caption:
    """Describe the merges in words."""
    if frame.empty:
        return Caption("No merge was recorded", "No layer takes part in the merging.")
    table = _per_filter(frame)
    middle = table.mean(axis=1)
    most, least = middle.idxmax(), middle.idxmin()
    title = f"In {most} a filter is merged {middle.max():.2f} times an epoch"
    if len(middle) > 1:
        title += f", the most of {count(len(middle), 'layer')}; in {least} {middle.min():.2f} times"
    each = "; ".join(f"{layer} {_ends(values.dropna())}" for layer, values in table.iterrows())
    return Caption(title, f"Merges per filter, first to last of {count(table.shape[1], 'epoch')}: {each}.")


@styled
def effective_rank(frame: pd.DataFrame, width: float = WIDE) -> Figure:
    """Draw the effective rank of each layer's filters by epoch, with merging and without, in a panel each.

    ``frame`` has run ("with" or "without"), epoch, layer, rank and filters. Of more than eight layers it is
    a heat map of the difference, with minus without, in % of the layer's filters.
    """
    caption = describe_effective_rank(frame)
    if frame.empty:
        return message(width, caption.title)
    layers, runs = _layers(frame), _runs(frame)
    if len(layers) > MOST_LINES:
        return _rank_heat(frame, runs, caption.title, width)
    legend = [Line2D([], [], color=RUNS[run], marker="o", markersize=3.5, label=_named(run)) for run in runs]
    made, grid = panels(width, 1.9, len(layers), caption.title, "epoch", legend=legend)
    filters = frame.groupby("layer")["filters"].first().to_dict()
    for axes, layer in zip(grid, layers, strict=True):
        for run in runs:
            values = _rank(frame, run).loc[layer].dropna()
            axes.plot(values.index, values, "o-", color=RUNS[run], markersize=3.5, linewidth=1.3)
        _epochs(axes)
        head(axes, f"{layer} ({count(int(filters[layer]), 'filter')})", width, len(layers))
    made.supylabel("effective rank", fontsize=9)
    return made


def describe_effective_rank(frame: pd.DataFrame) -> Caption:
    """Describe the ranks of the last epoch in words."""
    if frame.empty:
        return Caption("No effective rank was measured", "There is no layer.")
    runs, last = _runs(frame), int(frame["epoch"].max())
    ends = pd.DataFrame({run: _rank(frame, run).get(last) for run in runs}).dropna(how="all")
    filters = frame.groupby("layer")["filters"].first()
    each = "; ".join(
        f"{layer} {listing([f'{ends[run][layer]:.1f} {run}' for run in runs])} merging "
        f"of {count(int(filters[layer]), 'filter')}"
        for layer in map(str, ends.index)
    )
    detail = f"Effective rank at epoch {last}: {each}."
    if len(runs) < 2 or ends.dropna().empty:
        return Caption(f"Effective rank of {count(len(ends), 'layer')} {_named(runs[0])}", detail)
    change = ((ends["with"] - ends["without"]) / filters.reindex(ends.index)).dropna()
    most = str(change.abs().idxmax())
    lower = int((change < 0).sum())
    title = (
        f"At epoch {last} the effective rank is lower with merging than without in {lower} of "
        f"{count(len(change), 'layer')}; they differ most in {most}, {ends['with'][most]:.1f} against "
        f"{ends['without'][most]:.1f} of {count(int(filters[most]), 'filter')}"
    )
    return Caption(title, detail)


@styled
def similarity(frame: pd.DataFrame, width: float = WIDE) -> Figure:
    """Draw histograms of filter pairs' cosines: first and last epoch, with merging and without.

    ``frame`` has run, epoch, layer, low, high and share, the bins over [-1, 1]. Of more than four layers
    the first, two in the middle and the last are shown. Where both runs start alike, the start is one line.
    """
    caption = describe_similarity(frame)
    if frame.empty:
        return message(width, caption.title)
    layers, lines = _layers(frame), _histograms(frame)
    if len(layers) > MOST_HISTOGRAMS:
        layers = [layers[i] for i in np.linspace(0, len(layers) - 1, MOST_HISTOGRAMS).round().astype(int)]
    legend = [Line2D([], [], **style) for _, _, style in lines]
    made, grid = panels(
        width, 2.0, len(layers), caption.title, "cosine of two filters of the layer", columns=2, legend=legend
    )
    held = frame[(frame["share"] > 0) & frame["layer"].isin(layers)]
    for axes, layer in zip(grid, layers, strict=True):
        for run, epoch, style in lines:
            bins = _bins(frame[(frame["run"] == run) & (frame["epoch"] == epoch) & (frame["layer"] == layer)])
            if len(bins):
                edges = [*bins["low"], bins["high"].iloc[-1]]
                axes.stairs(100 * bins["share"], edges, **{k: v for k, v in style.items() if k != "label"})
        axes.set_xlim(held["low"].min() - 0.02, held["high"].max() + 0.02)
        head(axes, str(layer), width, len(layers), 2)
    made.supylabel("% of the pairs", fontsize=9)
    return made


def describe_similarity(frame: pd.DataFrame) -> Caption:
    """Describe the histograms in words: mean cosines, each bin at its middle."""
    if frame.empty:
        return Caption("No similarity was measured", "There is no pair of filters.")
    first, last = int(frame["epoch"].min()), int(frame["epoch"].max())
    cosine = frame.assign(cosine=frame["share"] * (frame["low"] + frame["high"]) / 2)
    keys = ["run", "epoch", "layer"]
    repeats = frame.groupby([*keys, "low"], sort=False).size().groupby(keys, sort=False).max()
    means = cosine.groupby(keys, sort=False)["cosine"].sum() / repeats
    runs, layers = _runs(frame), _layers(frame)
    middle = means.groupby(["run", "epoch"]).mean().to_dict()
    title = f"At epoch {last} the mean cosine of two filters is {_both(middle, runs, last)}"
    title += f", at epoch {first} it was {_both(middle, runs, first)}" * (last > first)
    by_layer = means.to_dict()
    each = "; ".join(f"{layer} {_both(by_layer, runs, last, layer)}" for layer in layers)
    return Caption(title, f"Mean cosine at epoch {last}, {each}.")


def _both(cosines: dict[Any, float], runs: list[str], *key: Any) -> str:
    """Return the cosine of each run that has one, in words."""
    texts = {run: f"{cosines[(run, *key)]:.3f}".replace("-", "−") for run in runs if (run, *key) in cosines}
    if len(texts) == 2 and texts["with"] == texts["without"]:
        return f"{texts['with']} with and without merging"
    return f"{listing([f'{text} {run}' for run, text in texts.items()])} merging"


def _layers(frame: pd.DataFrame) -> list[str]:
    return [str(layer) for layer in dict.fromkeys(frame["layer"])]


def _runs(frame: pd.DataFrame) -> list[str]:
    return [run for run in RUNS if (frame["run"] == run).any()]


def _named(run: str) -> str:
    return f"{run} merging"


def _ends(values: pd.Series) -> str:
    return f"{values.iloc[0]:.2f}" + (f" to {values.iloc[-1]:.2f}" if len(values) > 1 else "")


def _by_epoch(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a table of layers, in the order of the network, by epochs."""
    return frame.pivot_table(index="layer", columns="epoch", values=column).reindex(_layers(frame))


def _per_filter(frame: pd.DataFrame) -> pd.DataFrame:
    return _by_epoch(frame.assign(ratio=frame["merges"] / frame["filters"]), "ratio")


def _rank(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    return _by_epoch(frame[frame["run"] == run], "rank").reindex(_layers(frame))


def _marked(look: dict[str, Any]) -> dict[str, Any]:
    return look | {"markersize": 4, "linewidth": 1.3}


def _epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _rank_heat(frame: pd.DataFrame, runs: list[str], title: str, width: float) -> Figure:
    shares = frame.assign(rank=100 * frame["rank"] / frame["filters"])
    if len(runs) == 1:
        label = f"effective rank {_named(runs[0])}, % of filters"
        return _heat(_rank(shares, runs[0]), title, label, width, "Blues")
    label = "effective rank with minus without merging, points of % of the layer's filters"
    return _heat(_rank(shares, "with") - _rank(shares, "without"), title, label, width, "PuOr", centred=True)


def _heat(
    table: pd.DataFrame, title: str, label: str, width: float, cmap: str, *, centred: bool = False
) -> Figure:
    """Draw layers by epochs in colour, with a colour bar below."""
    made = figure(width, 1.1 + 0.18 * len(table), title)
    axes = made.subplots()
    values = np.ma.masked_invalid(table.to_numpy(dtype=float))
    reach = max(float(np.abs(values).max()), 1e-9) if values.count() else 1.0
    epochs = np.array(table.columns, dtype=float)
    mesh = axes.pcolormesh(
        np.append(epochs, epochs[-1] + 1) - 0.5, np.arange(len(table) + 1), values, cmap=cmap,
        vmin=-reach if centred else 0, vmax=reach,
    )  # fmt: skip
    letters = 34 if in_a_row(3, width) > 1 else 20
    axes.set_yticks(np.arange(len(table)) + 0.5, [shortened(str(layer), letters) for layer in table.index])
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel("epoch")
    _epochs(axes)
    bar = made.colorbar(mesh, ax=axes, location="bottom", aspect=40)
    bar.set_label("\n".join(label.split(", ")))
    bar.outline.set_visible(False)
    return made


def _bins(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["low", "high"])["share"].mean().reset_index()


def _histograms(frame: pd.DataFrame) -> list[tuple[str, int, dict[str, Any]]]:
    """Return run, epoch and style of each line of a panel; the start is thin and dashed."""
    runs, ends = _runs(frame), sorted({int(frame["epoch"].min()), int(frame["epoch"].max())})
    lines: list[tuple[str, int, dict[str, Any]]] = []
    start = {"linewidth": 1.0, "linestyle": "--"}
    if len(ends) > 1 and len(runs) > 1 and _alike(frame, ends[0]):
        lines.append(("with", ends[0], {"color": FAINT, "label": f"both, epoch {ends[0]}", **start}))
    elif len(ends) > 1:
        for run in runs:
            look = {"color": RUNS[run], "label": f"{_named(run)}, epoch {ends[0]}", **start}
            lines.append((run, ends[0], look))
    for run in runs:
        look = {"color": RUNS[run], "label": f"{_named(run)}, epoch {ends[-1]}", "linewidth": 1.6}
        lines.append((run, ends[-1], look))
    return lines


def _alike(frame: pd.DataFrame, epoch: int) -> bool:
    """Whether both runs have the same histograms in an epoch."""
    rows = frame[frame["epoch"] == epoch]
    table = rows.pivot_table(index=["layer", "low"], columns="run", values="share")
    return table.shape[1] == 2 and bool(np.allclose(table["with"], table["without"]))
