"""Test two papers' claims about fusion, and sum up a fusion study in a few sentences.

Each claim is decided by one rule on one paired difference, whatever the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from benchmarks.pages import markdown, marked, points
from benchmarks.studies import one_class
from benchmarks.studies.fusion_scores import (
    BEST,
    CHANCE,
    ENSEMBLE,
    ORACLES,
    PARENTS,
    Row,
    Seen,
    board,
    change,
    contrast,
    settled,
    verdict,
)
from fedmerge.experiment.formatting import count

CONTROL, CONTROLS = "distill", ("distill", "refit-head")
NEAR = 0.05
"""Within how much two methods are near each other."""
FUSION, SOUPS = "independent", "shared"
START = {FUSION: "From independent starts", SOUPS: "From a shared start"}


class Claim(NamedTuple):
    """What a paper says: ``first`` minus ``second`` is above (+1), below (-1) or near (0) zero.

    where: the levels the paper speaks of, as pairs of axis and level. across: the number of parents at which
    the difference is said to be larger or smaller than at two, else empty.
    """

    text: str
    first: str
    second: str | None
    side: int
    where: tuple[tuple[str, str], ...] = ()
    across: str = ""


DIRICHLET = (("split", "dirichlet"),)
TWO = (*DIRICHLET, ("parents", "2"))
NEURONS = [
    Claim("averaging falls below the parents (11.2 against 81.5 and 75.1)", "mean", PARENTS, -1, DIRICHLET),
    Claim("transport is above averaging (43.4 against 11.2)", "ot", "mean", 1, DIRICHLET),
    Claim("transport stays below the parents (43.4)", "ot", PARENTS, -1, DIRICHLET),
    Claim("re-basin is above transport, two parents (71.8 against 43.4)", "rebasin", "ot", 1, TWO),
    Claim("re-basin stays below the parents, two parents (71.8)", "rebasin", PARENTS, -1, TWO),
    Claim("HF is above re-basin, two parents (84.6 against 71.8)", "hf", "rebasin", 1, TWO),
    Claim("KF is above re-basin, two parents (84.5 against 71.8)", "kf", "rebasin", 1, TWO),
    Claim("HF is above the better parent, two parents (84.6 against 81.5)", "hf", BEST, 1, TWO),
    Claim("KF is above the better parent, two parents (84.5 against 81.5)", "kf", BEST, 1, TWO),
    Claim("HF and KF are near each other, two parents (84.6 and 84.5)", "hf", "kf", 0, TWO),
    Claim("linear KF is near gradient KF, two parents (85.6 and 84.3)", "kf", "kf-gradient", 0, TWO),
    Claim("KF loses with more parents: 8 against 2 (69.6 and 84.5)", "kf", None, -1, DIRICHLET, "8"),
    Claim("transport loses with more parents: 8 against 2 (12.9 and 43.4)", "ot", None, -1, DIRICHLET, "8"),
    Claim(
        "gradient KF is above distillation, four parents, sharded (43.5 against 40.3, a ViT)",
        "kf-gradient", "distill", 1, (("split", "sharded"), ("parents", "4")),
    ),
]  # fmt: skip
AVERAGES = [
    Claim("the ensemble is above the mean parent (7 of 7 data sets)", ENSEMBLE, PARENTS, 1),
    Claim("the ensemble is above averaging (7 of 7)", ENSEMBLE, "mean", 1),
    Claim("the ensemble is above the greedy soup (7 of 7)", ENSEMBLE, "greedy", 1),
    Claim("averaging is below the mean parent (5 of 7)", "mean", PARENTS, -1),
    Claim("averaging is below the greedy soup (5 of 7)", "mean", "greedy", -1),
    Claim("the greedy soup is near the mean parent (7 of 7)", "greedy", PARENTS, 0),
    Claim("the ensemble's lead over averaging grows: 8 parents against 2", ENSEMBLE, "mean", 1, (), "8"),
]


def difference(seen: Seen, claim: Claim, start: str) -> Row | None:
    """The paired difference that decides a claim; None where the study lacks the rows."""
    part = seen.of(**dict(claim.where), start=start)
    if claim.across:
        return change(part, claim.first, claim.second, "parents", "2", claim.across)
    return contrast(part, claim.first, str(claim.second)) if claim.second else None


def decide(claim: Claim, row: Row | None) -> str:
    """Decide whether a claim holds, does not hold or is open, by the interval of the difference."""
    if row is None:
        return "not run"
    low, high = row["difference_low"], row["difference_high"]
    if low != low:
        return "no interval"
    if claim.side:
        same = verdict(row) == claim.side
        return "holds" if same else "does not hold" if verdict(row) == -claim.side else "open"
    if low > -NEAR and high < NEAR:
        return "holds"
    return "does not hold" if low >= NEAR or high <= -NEAR else "open"


def claims_table(seen: Seen, claims: Sequence[Claim], start: str) -> str:
    """A line a claim: the claim, our difference, the pairs on either side, and whether it holds."""
    rows = []
    for claim in claims:
        row = difference(seen, claim, start)
        what = f"{claim.first} − {claim.second}" if claim.second else f"{claim.first}"
        pairs = "" if row is None else f"{row['wins']} / {row['losses']} / {row['ties']}"
        shown = "" if row is None else one_class.paired(marked(row), _behind(seen, claim, start))
        rows.append([claim.text, f"{what}{_across(claim)}", shown, pairs, decide(claim, row)])
    table = markdown(["the paper", "here", "difference", "above / below / equal", "verdict"], rows, 2)
    names = list(dict.fromkeys(name for each in claims for name in (each.first, each.second) if name))
    part = seen.of(start=start)
    there = [name for name in names if len(part.rows_of(name))]
    return one_class.noted(table, part.rows_of(*names), there)


def _behind(seen: Seen, claim: Claim, start: str) -> pd.DataFrame:
    """The rows of both methods of a claim, at the levels it speaks of."""
    rows = seen.of(**dict(claim.where), start=start).rows_of(claim.first, str(claim.second))
    return rows[rows["parents"].isin(["2", claim.across])] if claim.across else rows


def _across(claim: Claim) -> str:
    return f", {claim.across} minus 2 parents" if claim.across else ""


def answer(seen: Seen) -> str:
    """The outcome in a few sentences: by start, against averaging, parents and controls; then the claims."""
    parts = []
    for start in START:
        if start in seen.levels("start"):
            parts.append(_by_start(seen.of(start=start), START[start]))
    parts.append(_tally(seen))
    return "\n\n".join(part for part in parts if part)


def _by_start(part: Seen, where: str) -> str:
    sentences = [
        _averaging(part, where),
        _stands(part, "kf", [PARENTS, BEST, ENSEMBLE, "distill", "refit-head"]),
        _beside(part, "kf", ["hf", "kf-gradient", "rebasin", "ot"]),
        _rivals(part),
        _constant(part),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _constant(part: Seen) -> str:
    """How often the methods named above are constant classifiers, a reference among them."""
    names = [
        "mean",
        PARENTS,
        BEST,
        ENSEMBLE,
        "distill",
        "refit-head",
        "kf",
        "hf",
        "kf-gradient",
        "rebasin",
        "ot",
    ]
    told = one_class.named(part.rows, {name: _name(name) for name in names})
    return f"{told} {one_class.NO_GAIN}" if told else ""


def _averaging(part: Seen, where: str) -> str:
    """Plain averaging between chance and the parents, in balanced accuracy, where chance is 1 / classes."""
    row = contrast(part, "mean", PARENTS, "balanced_accuracy")
    if row is None:
        return ""
    known = board(part, None, metric="balanced_accuracy")["mean"]
    own, parents, chance = (float(known[name]) for name in ("mean", PARENTS, CHANCE))
    words = {1: "gains on the mean parent", 0: "is not told apart from the mean parent"}
    lost = "collapses" if own - chance < parents - own else "loses against the mean parent"
    return (
        f"**{where}** averaging {words.get(verdict(row), lost)}: balanced accuracy {100 * own:.1f} %, where "
        f"the mean parent has {100 * parents:.1f} % (a difference of {points(row)}) and chance is "
        f"{100 * chance:.1f} %."
    )


def _stands(part: Seen, method: str, others: Sequence[str]) -> str:
    """A method's accuracy, its differences to others, and in how many settings these exclude zero."""
    rows = {other: row for other in others if (row := contrast(part, method, other)) is not None}
    if not rows:
        return ""
    mean = board(part, None).loc[method, "mean"]
    differences = ", ".join(f"{marked(row)} to {_name(other)}" for other, row in rows.items())
    tallies = {other: settled(part, method, other) for other in rows}
    most = max(number for _, _, number in tallies.values())
    counts = ", ".join(f"{_name(other)} {above} / {below}" for other, (above, below, _) in tallies.items())
    return (
        f"`{method}` has {100 * mean:.1f} % accuracy: {differences}. "
        f"Of {count(most, 'setting')}, it is above / below in: {counts}."
    )


def _rivals(part: Seen) -> str:
    """How many fusions to one network are above and below distillation."""
    known = board(part, CONTROL).drop(index=[*ORACLES, PARENTS, CHANCE, ENSEMBLE, *CONTROLS], errors="ignore")
    known = known.dropna(subset=["difference"])
    if known.empty:
        return ""
    sides = [verdict(row) for row in known.to_dict("records")]
    return (
        f"Of {count(len(sides), 'way')} to fuse into one network {sides.count(1)} are above `{CONTROL}` over "
        f"all settings and {sides.count(-1)} below; the best is `{known.index[0]}` ({points(known.iloc[0])})."
    )


def _beside(part: Seen, method: str, others: Sequence[str]) -> str:
    """Other methods' paired differences to one."""
    rows = [(other, contrast(part, other, method)) for other in others]
    there = [f"`{other}` {points(row)}" for other, row in rows if row is not None]
    return f"Against `{method}`, in points: {', '.join(there)}." if there else ""


def _name(other: str) -> str:
    names = {PARENTS: "the mean parent", BEST: "the best parent (oracle)", ENSEMBLE: "the ensemble"}
    return names.get(other, f"`{other}`")


def _tally(seen: Seen) -> str:
    """How many claims hold, and which do not."""
    found = {"holds": 0, "does not hold": 0, "open": 0}
    against, constant = [], 0
    for claims, start in ((NEURONS, FUSION), (AVERAGES, SOUPS)):
        for claim in claims:
            said = decide(claim, difference(seen, claim, start))
            if said in found:
                found[said] += 1
                constant += one_class.often(_behind(seen, claim, start))[0] > 0
            if said == "does not hold":
                against.append(claim.text.partition(" (")[0])
    number = sum(found.values())
    if not number:
        return "No claim of the papers could be put to the test."
    text = (
        f"Of {count(number, 'claim')} of the two papers that this study could test, {found['holds']} hold "
        f"here, {found['does not hold']} not, and {found['open']} stay open."
    )
    if constant:
        text += f" In {constant} of them some measurement on either side gives every image one class."
    return f"{text} Not so here: {'; '.join(against)}." if against else text
