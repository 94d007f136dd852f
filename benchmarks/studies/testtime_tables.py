"""The tables and sentences of the page on test-time methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.pages import markdown, marked, points
from benchmarks.studies.one_class import NO_GAIN, named, noted, paired, scored
from benchmarks.studies.testtime_scores import (
    ENSEMBLE,
    MEAN,
    OURS,
    PAPER,
    STREAMS,
    TUNED,
    Seen,
    base_of,
    board,
    cells,
    data_as_sites,
    is_choice,
)
from fedmerge.analysis import interval_rule
from fedmerge.reports.figures.panels import signed

LEAST = 1e-9
"""Differences of accuracy up to this are none."""


def overall_table(seen: Seen) -> str:
    """Every method that all studies have, best first: difference from mean merging, stream by stream."""
    names = seen.methods()
    part = seen._replace(rows=seen.rows[seen.rows["method"].isin(names)])
    whole, ensemble = board(part, MEAN), board(part, ENSEMBLE)
    streams = {stream: board(part.of(stream=stream), MEAN) for stream in STREAMS}
    head = ["method", "accuracy, %", *STREAMS.values(), "cells below mean", "− logit ensemble", "passes"]
    rows = []
    for name in whole.sort_values("mean", ascending=False).index:
        own = cells(part, name, MEAN)
        below = "" if name == MEAN else f"{(own < -LEAST).sum()} of {len(own)}"
        differences = [_against(part.of(stream=s), streams[s], name, MEAN) for s in STREAMS]
        beside = _against(part, ensemble, name, ENSEMBLE)
        score = scored(_score(whole.loc[name, "mean"]), part.rows_of(name))
        rows.append([name, score, *differences, below, beside, _passes(whole, name)])
    return noted(markdown(head, rows), part.rows, [MEAN, ENSEMBLE])


def _against(part: Seen, known: pd.DataFrame, name: str, reference: str) -> str:
    """A method's difference to the leaderboard's reference; empty for the reference."""
    return "" if name == reference else paired(marked(known.loc[name]), part.rows_of(name, reference))


def bench_table(seen: Seen, bench: str) -> str:
    """Every method of one study: accuracy by stream, and the difference from mean merging over all."""
    part = seen.of(bench=bench)
    part = part._replace(rows=part.rows[~part.rows["method"].map(is_choice)])
    whole = board(part, MEAN)
    streams = {stream: board(part.of(stream=stream), MEAN) for stream in STREAMS}
    rows = [
        [
            name,
            *(scored(_score(streams[s].loc[name, "mean"]), part.of(stream=s).rows_of(name)) for s in STREAMS),
            _against(part, whole, name, MEAN),
            _passes(whole, name),
        ]
        for name in whole.sort_values("mean", ascending=False).index
    ]
    return noted(
        markdown(["method", *STREAMS.values(), "− mean, all streams", "passes"], rows), part.rows, [MEAN]
    )


def choices_table(seen: Seen, benches: Sequence[str], probes: bool) -> str:
    """A node with one choice changed, against the unchanged node: by stream, and against mean merging."""
    part = seen._replace(rows=seen.rows[seen.rows["bench"].isin(benches)])
    names = [name for name in part.methods(choices=True) if ("-probe-" in name) == probes]
    names = [name for name in names if part.everywhere(name)]
    bases = [base for base in (OURS, PAPER) if base == OURS or base in map(base_of, names)]
    part = part._replace(rows=part.rows[part.rows["method"].isin([OURS, PAPER, MEAN, *names])])
    mean = board(part, MEAN)
    whole = {base: board(part, base) for base in bases}
    by_stream = {base: {s: board(part.of(stream=s), base) for s in STREAMS} for base in bases}
    rows = []
    for name in [OURS, *sorted(names, key=base_of, reverse=True), PAPER, MEAN]:
        base = bases[0] if len(bases) == 1 else base_of(name) if name in names else None
        own = [""] * (1 + len(STREAMS))
        if base is not None and name != base:
            own = [_against(part, whole[base], name, base)]
            own += [
                paired(
                    signed(by_stream[base][s].loc[name, "difference"], 2),
                    part.of(stream=s).rows_of(name, base),
                )
                for s in STREAMS
            ]
        beside = _against(part, mean, name, MEAN)
        score = scored(_score(mean.loc[name, "mean"]), part.rows_of(name))
        rows.append([name, score, *own, beside, _passes(mean, name)])
    against = f"− {OURS}" if len(bases) == 1 else "− without the probe"
    table = markdown(["choice", "accuracy, %", against, *STREAMS.values(), "− mean", "passes"], rows)
    return noted(table, part.rows, [*bases, MEAN])


def targets_table(seen: Seen) -> str:
    """A line a target: mean merging, and what the others add to it, all streams together, in points."""
    names = [ENSEMBLE, "oracle-best-source", PAPER, OURS, TUNED]
    names = [name for name in names if name in set(seen.rows["method"])]
    rows = []
    for site in seen.rows["site"].unique():
        part = seen.of(site=site)
        base = part.rows_of(MEAN)
        gains = [
            paired(signed(cells(part, name, MEAN).mean(), 1), part.rows_of(name, MEAN)) for name in names
        ]
        rows.append([site, scored(_score(base["accuracy"].mean()), base), *gains])
    return noted(markdown(["target", MEAN, *names], rows), seen.rows_of(MEAN, *names), [MEAN])


def mixed_table(mixed: Seen) -> str:
    """Streams of several unseen sites at once: the difference from mean merging."""
    part = mixed._replace(rows=mixed.rows[mixed.rows["site"].str.endswith(" mixed")])
    whole = board(part, MEAN)
    kinds = list(part.rows["data"].unique())
    by_data = {kind: board(part.of(data=kind), MEAN) for kind in kinds}
    rows = [
        [
            name,
            scored(_score(whole.loc[name, "mean"]), part.rows_of(name)),
            *(_against(part.of(data=kind), by_data[kind], name, MEAN) for kind in kinds),
        ]
        for name in whole.sort_values("mean", ascending=False).index
    ]
    return noted(markdown(["method", "accuracy, %", *kinds], rows), part.rows, [MEAN])


def answer(seen: Seen) -> str:
    """What the paper's variant and the recommended node gain over mean merging and over the ensemble."""
    lines = []
    for name in (PAPER, OURS, TUNED):
        mean, ensemble = board(seen, MEAN).loc[name], board(seen, ENSEMBLE).loc[name]
        by_stream = [
            f"{text} {points(board(seen.of(stream=stream), MEAN).loc[name])}"
            for stream, text in STREAMS.items()
        ]
        own, other = cells(seen, name, MEAN), cells(seen, name, ENSEMBLE)
        by_data = board(data_as_sites(seen), MEAN).loc[name]
        told = {MEAN: "mean merging", ENSEMBLE: "the ensemble", name: f"`{name}`"}
        constant = named(seen.rows, told)
        constant = f" {constant} {NO_GAIN}" if constant else ""
        lines.append(
            f"**`{name}`** minus mean merging, in points: {points(mean)}; {', '.join(by_stream)}. Below it "
            f"in {(own < -LEAST).sum()} of {len(own)} cells of target and stream, at worst by "
            f"{signed(own.min(), 1)}. Minus the logit ensemble: {points(ensemble)}, below it in "
            f"{(other < -LEAST).sum()} of {len(other)}. "
            f"The mean of the {seen.rows['bench'].nunique()} data sets, each a site: "
            f"{points(by_data)}.{constant}"
        )
    return "\n\n".join(lines)


def speed_table(path: Path) -> str:
    """What ``benchmarks/speed/testtime.py`` measured on one device: ratios, a column a network."""
    found = json.loads(path.read_text(encoding="utf-8"))
    cases = found["cases"]
    passes = cases[0]["models"] + 1
    groups = {
        "node_over_bare_all": f"node, {{}}: against {passes} bare passes",
        "ways_over_views": "asking the sources by {}: against views",
        "over_one_pass": "probe, {}: in single passes",
        "recorded": "CUDA graphs: {}",
    }
    rows = []
    for group, words in groups.items():
        for name in dict.fromkeys(name for case in cases for name in case.get(group, {})):
            values = [case.get(group, {}).get(name) for case in cases]
            rows.append([words.format(name), *("–" if v is None else f"{v:.2f}" for v in values)])
    head = [f"{case['network']}, {case['pixels']} px" for case in cases]
    return f"{found['device']}, PyTorch {found['torch']}:\n\n" + markdown(["what", *head], rows)


def rules(seen: Seen) -> str:
    """How the intervals were made: over all targets of all studies, and in one study."""
    together = interval_rule(seen.rows.drop(columns="cohort"))
    return f"- Over all targets: {together}\n- In one data set: {interval_rule(seen.rows)}"


def _score(accuracy: float) -> str:
    """Format an accuracy in %."""
    return f"{100 * accuracy:.1f}"


def _passes(whole: pd.DataFrame, name: str) -> str:
    forward, backward = whole.loc[name, "forward_passes"], whole.loc[name, "backward_passes"]
    return f"{forward:.2f}".rstrip("0").rstrip(".") + (f" + {backward:.0f}" if backward else "")
