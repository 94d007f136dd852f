"""The page on round algorithms: its tables, written anew from finished studies or from the kept rows.

Give the folders that `fedmerge bench` left for bench-round-algorithms and bench-round-algorithms-others:
`python -m benchmarks.studies.rounds_page MAIN OTHERS`. Scores and drift then go into benchmarks/results as
round-algorithms.csv and round-algorithms-drift.csv. Without folders the page is written from these files.
What stands between <!-- begin NAME --> and <!-- end NAME --> in docs/studies/round-algorithms.md is replaced.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import RESULTS
from benchmarks.pages import DIGITS, fill, kept, markdown, marked, provenance
from fedmerge.analysis import difference, interval_rule
from fedmerge.analysis.diagnosis import ANALYSES, Subject
from fedmerge.experiment.formatting import count as count_of
from fedmerge.experiment.formatting import percent
from fedmerge.experiment.summary.unlearned import MARK
from fedmerge.models.pool import ModelPool
from fedmerge.workflows.bench.study import Study, open_study

PAGE, NAME = "round-algorithms", "round-algorithms"
METHODS = {
    "federated": "federated",
    "mean": "mean",
    "ensemble-logits": "ensemble",
    "stream-adaptive": "adaptive",
}
"""What an unseen hospital may run, and its column."""
COHORTS = {"wbc4-small": "blood cells", "melanoma4-small": "melanoma"}
REFERENCE = {"SCAFFOLD": "FedAvg-SGD"}
"""Of which algorithm a difference is taken, where it is not FedAvg: the same optimizer."""
BEYOND = ("pooled", "majority-class")
SCORES = ["balanced_accuracy", "auroc", "validation"]
KEYS = ["cohort", "algorithm", "seed", "site"]
OWN = "ensemble-logits"
"""The method whose validation is the mean of the hospitals' own models'."""


def rows_of(studies: Sequence[Study]) -> pd.DataFrame:
    """Return the scores of all studies, a row for each algorithm, seed, unseen hospital and method."""
    table = pd.concat([study.done for study in studies], ignore_index=True)
    table = table.assign(constant=table["constant"].astype(bool))
    for method in BEYOND:  # one row a hospital and seed, whichever algorithm stood beside it
        table.loc[table["method"] == method, "algorithm"] = method
    table = table.drop_duplicates([*KEYS, "method"])
    return table[[*KEYS, "method", *SCORES, "constant"]]


def drift_of(study: Study) -> Iterator[dict[str, Any]]:
    """Yield a row for each pool: angles between the hospitals' models, what their mean keeps, per part."""
    mean = study.done[study.done["method"] == "mean"]
    for row in mean.to_dict("records"):
        job = json.loads((study.folder / "jobs" / row["config_hash"] / "job.json").read_text("utf-8"))
        pool = ModelPool(study.folder / "jobs" / job["needs"][0] / "pool", create=False)
        spec = pool.card(pool.names[0]).model
        images = torch.zeros(2, spec.in_channels, spec.image_size, spec.image_size)
        subject = Subject.of({name: pool.model(name) for name in pool.names}, images)
        parts = ANALYSES["drift"].call(subject).tables["parts"].set_index("part")
        found = {
            f"{part}_{name}": parts.loc[part, name]
            for part in ("encoder", "head")
            for name in ("angle", "retained")
        }
        yield {key: row[key] for key in KEYS} | found


def differences(rows: pd.DataFrame, score: str = "balanced_accuracy") -> dict[str, str]:
    """Return each algorithm's paired difference from its reference, in points, with its interval."""
    said = {}
    plain = rows[["seed", "site", "algorithm"]].assign(balanced_accuracy=rows[score], stream="iid")
    for name in rows["algorithm"].unique():
        reference = REFERENCE.get(name, "FedAvg")
        if name == reference or reference not in set(rows["algorithm"]):
            said[name] = ""
            continue
        said[name] = marked(difference(plain, name, reference, "algorithm", "balanced_accuracy"))
    return said


def unseen_table(rows: pd.DataFrame) -> str:
    """Return what an unseen hospital gets by each method, in %, with constant classifiers marked."""
    lines = []
    for cohort, part in rows.groupby("cohort", sort=False):
        gaps = {m: differences(part[part["method"] == m]) for m in METHODS}
        for name in algorithms(part):
            own = part[part["algorithm"] == name]
            cells = [cell(own[own["method"] == method]) for method in METHODS]
            if name in BEYOND:
                cells = [cell(own), "", "", ""]
            told = [gaps["federated"].get(name) or gaps["mean"].get(name, "") if name not in BEYOND else ""]
            adapted = gaps["stream-adaptive"].get(name, "") if name not in BEYOND else ""
            lines.append([COHORTS.get(str(cohort), str(cohort)), name, *cells, *told, adapted])
    head = ["cohort", "algorithm", *METHODS.values(), "difference, federated", "difference, adaptive"]
    return markdown(head, lines, words=2)


def pool_table(rows: pd.DataFrame, drift: pd.DataFrame) -> str:
    """Return what each algorithm does to the pool: validation in %, angles in degrees, length kept in %."""
    lines = []
    for cohort, part in rows.groupby("cohort", sort=False):
        own = part[part["method"] == OWN]
        gaps, apart = differences(own, "validation"), drift[drift["cohort"] == cohort]
        for name in [name for name in algorithms(part) if name not in BEYOND]:
            mine = part[part["algorithm"] == name]
            scores = [
                number(mine.loc[mine["method"] == method, "validation"])
                for method in (OWN, "federated", "mean")
            ]
            moved = apart[apart["algorithm"] == name]
            angles = [f"{moved[f'{p}_angle'].mean():.1f}" if len(moved) else "" for p in ("encoder", "head")]
            length = f"{100 * moved['head_retained'].mean():.0f}" if len(moved) else ""
            where = COHORTS.get(str(cohort), str(cohort))
            lines.append([where, name, scores[0], gaps.get(name, ""), *scores[1:], *angles, length])
    head = ["cohort", "algorithm", "own models", "difference", "federated", "mean"]
    head += ["angle, encoder", "angle, head", "head kept, %"]
    return markdown(head, lines, words=2)


def overall_table(rows: pd.DataFrame) -> str:
    """Return the differences over both cohorts' hospitals, by what the unseen hospital runs."""
    gaps = {method: differences(rows[rows["method"] == method]) for method in METHODS}
    own = differences(rows[rows["method"] == OWN], "validation")
    names = [name for name in algorithms(rows) if name not in (*BEYOND, "FedAvg")]
    lines = [[name, *(gaps[m].get(name, "") for m in METHODS), own.get(name, "")] for name in names]
    return markdown(["algorithm", *METHODS.values(), "own models, validation"], lines)


def algorithms(rows: pd.DataFrame) -> list[str]:
    """Return the algorithms in their order, what is beyond them last."""
    names = list(dict.fromkeys(rows["algorithm"]))
    return [n for n in names if n not in BEYOND] + [n for n in BEYOND if n in names]


def cell(rows: pd.DataFrame) -> str:
    """Return a mean balanced accuracy, and in how many of its measurements one class was given."""
    n, m = int(rows["constant"].sum()), len(rows)
    text = number(rows["balanced_accuracy"])
    return f"{text} {MARK} {n}/{m}" if n and text else text


def number(values: pd.Series) -> str:
    """Return a mean in %; empty where there is none."""
    return f"{100 * values.mean():.1f}" if values.notna().any() else ""


def answer(rows: pd.DataFrame) -> str:
    """Say which algorithms differ from FedAvg beyond their intervals, by what an unseen hospital runs."""
    mean = rows[rows["method"] == "mean"]
    seeds, sites = mean["seed"].nunique(), mean["site"].nunique()
    if seeds == sites == 1:
        (site,) = mean["site"].unique()
        return (
            f"**So far one seed and one unseen hospital (`{site}`) have been run.** There is no interval, "
            "and nothing can be concluded: the tables show what the study measures."
        )
    lines = []
    for method, name in METHODS.items():
        sure = {k: v for k, v in differences(rows[rows["method"] == method]).items() if v.startswith("**")}
        told = ", ".join(f"{k} {v.strip('*')}" for k, v in sure.items())
        lines.append(f"- *{name}*: {told or 'no algorithm differs from FedAvg beyond its interval'}.")
    head = (
        f"Over {seeds} seeds and {sites} unseen hospitals, in points of balanced accuracy at the unseen one:"
    )
    return "\n".join([head, "", *lines])


def sizes(rows: pd.DataFrame) -> str:
    """Say how many measurements there are, by algorithm where they differ."""
    there = rows[rows["method"].isin(METHODS)].drop_duplicates(KEYS).groupby("algorithm", sort=False)
    count = there.size()
    usual = int(count.max())
    fewer = [f"{name} {n}" for name, n in count.items() if n < usual]
    lack = f"; fewer of {', '.join(fewer)}" if fewer else ""
    constant = rows[rows["method"].isin(METHODS)]
    n, m = int(constant["constant"].sum()), len(constant)
    return (
        f"{count_of(usual, 'federation')} of each algorithm (seeds times unseen hospitals){lack}. {MARK}: "
        f"one class for every image; n/m: in n of m measurements, {percent(n / m)} of all."
    )


def blocks_of(rows: pd.DataFrame, drift: pd.DataFrame) -> dict[str, str]:
    """Return the page's blocks that follow from the kept rows."""
    rule = rows[rows["method"] == "mean"].assign(status="done")
    return {
        "answer": answer(rows),
        "sizes": sizes(rows),
        "unseen": unseen_table(rows),
        "pool": pool_table(rows, drift),
        "overall": overall_table(rows),
        "rule": f"Differences: {interval_rule(rule)}",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Read the studies, where they are given, keep their rows, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", help="folders of the studies; none: the kept rows")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help=f"where {PAGE}.md is")
    parser.add_argument("--scores", type=Path, default=RESULTS, help="folder of the CSVs")
    args = parser.parse_args(argv)
    scores, drift = args.scores / f"{NAME}.csv", args.scores / f"{NAME}-drift.csv"
    page = args.out / f"{PAGE}.md"
    text = page.read_text(encoding="utf-8")
    blocks = {}
    if args.folders:
        studies = [open_study(folder) for folder in args.folders]
        args.scores.mkdir(parents=True, exist_ok=True)
        form = {"index": False, "float_format": f"%{DIGITS}", "lineterminator": "\n"}
        rows_of(studies).to_csv(scores, **form)
        pd.DataFrame([row for study in studies for row in drift_of(study)]).to_csv(drift, **form)
        blocks["provenance"] = provenance(studies)
    blocks = kept(text) | blocks | blocks_of(pd.read_csv(scores), pd.read_csv(drift))
    page.write_text(fill(text, blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
