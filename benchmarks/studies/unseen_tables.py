"""The tables and sentences of the page on unseen hospitals."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.pages import markdown
from benchmarks.studies.unseen_scores import (
    COHORTS,
    DEFAULT,
    ENSEMBLE,
    FEDERATED,
    FIRST_DEFAULT,
    MEAN,
    METRIC,
    REFERENCES,
    Seen,
    against,
    average,
    board,
    broken,
    cost,
    failed,
    place_of,
    random_signs,
    seeds_as_one,
)
from fedmerge.analysis import interval_rule
from fedmerge.experiment.formatting import listing
from fedmerge.experiment.summary.unlearned import MARK
from fedmerge.reports.figures.panels import signed

STREAMS = {"iid": "any order", "note-0.1": "bursts (NOTE 0.1)", "temporal": "one class after the other"}
WORDS = {MEAN: "mean merging", FEDERATED: "the federated model", ENSEMBLE: "the ensemble"}
MARGIN, HALF = -0.02, 0.5
"""The most that a candidate may be below the federated model in a cell; its share of M + 1 passes."""
LOOKED_UP = ("oracle-best-source",)
CHOOSERS = ("entropy-adaptive", "dawin-batch", "node", "node-norm-distance", "node-probe-8")
CHOOSERS = (*CHOOSERS, FIRST_DEFAULT, "coefficients-alone", DEFAULT)
"""Methods with coefficients of their own; the others share theirs with one of these."""


def share(value: float) -> str:
    """A share in per cent; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def headline(seen: Seen, default: str = DEFAULT) -> str:
    """The sentence about a default: three references, three tests."""
    known, found = board(seen, default), random_signs(seen, default, REFERENCES)
    table, price = average(seen), cost(seen)[default]
    parts = []
    for name in REFERENCES:
        row, test = known.loc[name], found.loc[name]
        low, high = (signed(-row[f"difference_{end}"], 1) for end in ("high", "low"))
        difference = signed(-row["difference"], 1)
        parts.append(f"{difference} ({low} to {high}; p = {test['p_holm']:.3g}) against {WORDS[name]}")
    fewer = against(seen, default, FEDERATED)
    cells = listing([COHORTS[name] for name in seen.working.cohorts])
    units = int(found["units"].max())
    mine = share(table.loc[default, "average"])
    return (
        f"**`{default}`**, frozen before these runs, on {cells}: {mine} % balanced accuracy at "
        f"{100 * price:.0f} % of the M + 1 passes of merging by all images. Its difference in points: "
        f"{'; '.join(parts)}. (95 % intervals; exact random signs with {units} hospitals as units, Holm over "
        f"the three.) It is more than 2 points below the federated model in {(fewer < MARGIN).sum()} of "
        f"{len(fewer)} cells of hospital and stream, at worst by {signed(fewer.min(), 1)}."
    )


def summary(scratch: Seen, again: Seen) -> str:
    """What README and the page of evidence say: the default by kind of network, and what norms do."""
    norms = board(again, FEDERATED).loc[FIRST_DEFAULT]
    kinds = (scratch, "small networks from scratch"), (again, "pretrained networks")
    differences = "; ".join(_differences(*kind) for kind in kinds)
    return (
        "At hospitals that did not train (three data sets, each hospital unseen in turn) the default node, "
        "frozen before these runs, differs in points of balanced accuracy: "
        f"{differences}. {_verdict(scratch, again)} The federated model is that of the rounds, before "
        "hospitals fine-tune. Batch norms that learn from the stream hurt pretrained networks: the first "
        f"default, which learned them, has {_with_interval(norms, 1)} against the federated model; the "
        "present one leaves them."
    )


def _differences(seen: Seen, kind: str) -> str:
    known = board(seen, DEFAULT)
    said = [f"{_with_interval(known.loc[name], -1)} against {WORDS[name]}" for name in REFERENCES]
    seeds, hospitals = seen.rows["seed"].nunique(), seen.working.rows["site"].nunique()
    return f"with {kind} ({hospitals} hospitals, {seeds} {'seed' if seeds == 1 else 'seeds'}) {listing(said)}"


def _verdict(*kinds: Seen) -> str:
    """Say whether the default is surely above or below a reference, with any kind of network."""
    rows = [(WORDS[name], board(seen, DEFAULT).loc[name]) for seen in kinds for name in REFERENCES]
    better = dict.fromkeys(words for words, row in rows if row["difference_high"] < 0)
    worse = dict.fromkeys(words for words, row in rows if row["difference_low"] > 0)
    said = [
        f"surely {how} than {listing(list(which))}"
        for how, which in (("better", better), ("worse", worse))
        if which
    ]
    if not said:
        return (
            "**So it is not surely better than any of them, nor surely worse**, and the first two cost less."
        )
    return f"**Somewhere it is {' and somewhere '.join(said)}.**"


def _with_interval(row: pd.Series, sign: int) -> str:
    low, high = sorted((sign * row["difference_low"], sign * row["difference_high"]))
    return f"{signed(sign * row['difference'], 1)} ({signed(low, 1)} to {signed(high, 1)})"


def overall(seen: Seen) -> str:
    """Every method of the cohorts, best average first, those that lose included."""
    table, known, price = average(seen), board(seen, FEDERATED), cost(seen)
    results = random_signs(seen, FEDERATED)
    auroc = board(seen, None, "auroc")["mean"]
    head = ["method", *(COHORTS[name] for name in seen.working.cohorts), "average", "− federated", "p (Holm)"]
    head += [
        "worst hospital",
        "AUROC",
        "ECE",
        "passes, % of M + 1",
        "backward",
        "s / 100 images",
        "one class",
    ]
    rows = []
    for name in _ordered(table):
        own = seen.working.rows[seen.working.rows["method"] == name]
        row, (low, high) = known.loc[name], _bounds(known.loc[name])
        difference = "" if name == FEDERATED else f"{signed(row['difference'], 1)} ({low} to {high})"
        p = f"{results.loc[name, 'p_holm']:.2g}" if name in results.index else ""
        constant = int((own["constant"].astype(float) > 0).sum())
        rows.append(
            [
                _named(name, own),
                *(share(table.loc[name, cohort]) for cohort in seen.working.cohorts),
                share(table.loc[name, "average"]),
                difference,
                p,
                share(row["worst"]),
                share(auroc[name]),
                share(own["ece"].mean()),
                f"{100 * price[name]:.0f}",
                f"{own['backward_passes'].mean():.1f}",
                f"{100 * (own['seconds'] / own['n']).mean():.1f}",
                f"{constant}/{len(own)}" if constant else "",
            ]
        )
    return markdown(head, rows)


def streams(seen: Seen) -> str:
    """Balanced accuracy by stream, cohorts alike."""
    rows = seen.working.rows
    sites = rows.groupby(["method", "stream", "cohort", "site"], sort=False)[METRIC].mean()
    table = (
        sites.groupby(["method", "stream", "cohort"]).mean().groupby(["method", "stream"]).mean().unstack()
    )
    order = [name for name in _ordered(average(seen)) if name in table.index]
    names = [name for name in STREAMS if name in table]
    body = [[f"`{name}`", *(share(table.loc[name, stream]) for stream in names)] for name in order]
    return markdown(["method", *(STREAMS[name] for name in names)], body)


def development(seen: Seen) -> str:
    """The candidates and everything else on the development cohorts, by the protocol's three conditions."""
    table, price = average(seen), cost(seen)
    head = ["method", *(COHORTS[name] for name in seen.working.cohorts), "average", "− mean", "− federated"]
    head += ["− ensemble", "worst cell − federated", "passes, % of M + 1", "eligible"]
    rows = []
    for name in _ordered(table):
        beside = [table.loc[name, "average"] - table.loc[other, "average"] for other in REFERENCES]
        worst = against(seen, name, FEDERATED).min() if name != FEDERATED else 0.0
        eligible = price[name] <= HALF and worst >= MARGIN and not name.startswith(("oracle", "majority"))
        rows.append(
            [
                f"`{name}`",
                *(share(table.loc[name, cohort]) for cohort in seen.working.cohorts),
                share(table.loc[name, "average"]),
                *(signed(value, 1) for value in beside),
                signed(worst, 1),
                f"{100 * price[name]:.0f}",
                "yes" if eligible else "",
            ]
        )
    return markdown(head, rows)


def hospitals(seen: Seen, default: str = DEFAULT) -> str:
    """The hospitals one by one: references, default and the best of the others."""
    rows = seen.working.rows
    best = [name for name in _ordered(average(seen)) if not name.startswith(("oracle", "pooled", "majority"))]
    shown = [*dict.fromkeys([*REFERENCES, default, *best[:2], "pooled"])]
    table = rows.groupby(["site", "method"], sort=False)[METRIC].mean().unstack("method")
    shown = [name for name in shown if name in table]
    body = [[site, *(share(table.loc[site, name]) for name in shown)] for site in table.index]
    return markdown(["hospital", *(f"`{name}`" for name in shown)], body)


def measured(seen: Seen) -> str:
    """Every method at every hospital as it was measured, also where the shared model does not work.

    A score of one class for every image, in any seed or stream, is marked.
    """
    rows = seen.rows
    table = rows.groupby(["method", "site"], sort=False)[METRIC].mean().unstack("site")
    constant = rows.groupby(["method", "site"], sort=False)["constant"].max().unstack("site").astype(float)
    table = table.loc[table.mean(axis=1).sort_values(ascending=False).index]
    body = [
        [
            f"`{name}`",
            *(share(row[site]) + (f" {MARK}" if constant.loc[name, site] else "") for site in table),
        ]
        for name, row in table.iterrows()
    ]
    return markdown(["method", *table], body)


def choice(seen: Seen) -> str:
    """How well coefficients choose among the sources (``analysis.source_choice``)."""
    table = seen.choice
    place = place_of(table)
    table = table[~place.isin(broken(seen.rows)) & table["method"].isin(CHOOSERS)]
    head = ["method", "cohort", "rank correlation", "positive in", "gain, points", "regret, points"]
    body = []
    shown = table.assign(method=pd.Categorical(table["method"], CHOOSERS))
    for (method, cohort), rows in shown.groupby(["method", "cohort"], sort=True, observed=True):
        known = rows["correlation"].dropna()
        often = f"{(known > 0).sum()} of {len(known)}" if len(known) else "none differ"
        mean = f"{known.mean():.2f}".replace("-", "−") if len(known) else "–"
        gain, regret = signed(rows["gain"].mean(), 1), signed(rows["regret"].mean(), 1)
        body.append([f"`{method}`", COHORTS[cohort], mean, often, gain, regret])
    return markdown(head, body, words=2)


def left_out(seen: Seen) -> str:
    """What the protocol's rule leaves out, and constant classifiers among all rows."""
    lost, lines = broken(seen.rows), []
    for cohort in seen.cohorts:
        rows = seen.of(cohort).rows
        places = set(place_of(rows))
        gone = sorted(places & lost)
        constant = int((rows["constant"].astype(float) > 0).sum())
        which = f" ({', '.join(gone)})" if gone else ""
        lines.append(
            f"- {COHORTS[cohort]}: {len(gone)} of {len(places)} hospitals and seeds left out{which}; one "
            f"class for every image in {constant} of {len(rows)} rows of all methods.{_failed(cohort, seen)}"
        )
    return "\n".join(lines)


def _failed(cohort: str, seen: Seen) -> str:
    return " **Training failed: it has no part in any average.**" if cohort in failed(seen.rows) else ""


def rules(seen: Seen) -> str:
    """How intervals are made."""
    return interval_rule(seeds_as_one(seen.working.rows))


def _ordered(table: pd.DataFrame) -> list[str]:
    """Names of methods, best average first; those that did not run everywhere behind."""
    return list(table.assign(some=table.mean(axis=1)).sort_values(["average", "some"], ascending=False).index)


def _named(name: str, own: pd.DataFrame) -> str:
    mark = f" {MARK}" if (own["constant"].astype(float) > 0).mean() > HALF else ""
    looked = " (looks at labels)" if name in LOOKED_UP else ""
    return f"`{name}`{mark}{looked}"


def _bounds(row: pd.Series) -> tuple[str, str]:
    low, high = (signed(row[f"difference_{end}"], 1) for end in ("low", "high"))
    return low, high
