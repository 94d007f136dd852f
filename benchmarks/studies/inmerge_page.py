"""The page on in-model merging: its numbers, tables and figures, written anew from three finished studies.

Give the folders that `fedmerge bench` left for bench-inmerge, bench-inmerge-grid, bench-inmerge-federation:
`python -m benchmarks.studies.inmerge_page MAIN GRID FEDERATION --out docs/studies`. What stands between
<!-- begin NAME --> and <!-- end NAME --> in in-model-merging.md is replaced; figures and numbers.json go into
the folder of that name, each study's scores as CSV into benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks import RESULTS
from benchmarks.pages import BOUNDS, Picture, provenance, save_scores, write_page
from benchmarks.studies import inmerge_tables as tables
from benchmarks.studies.inmerge_tables import Seen
from benchmarks.studies.one_class import collapsed, marked_board, told
from fedmerge.analysis import severity_curve
from fedmerge.errors import FedMergeError
from fedmerge.experiment.formatting import count, thousands
from fedmerge.reports.figures import forest, merging, severity
from fedmerge.reports.figures.forest import describe_forest
from fedmerge.reports.figures.severity import describe_severity

PAGE = "in-model-merging"


def differences(seen: Seen) -> Picture:
    """Paired differences, a panel a stratum."""
    found = seen.found
    board = marked_board(found.leaderboards, seen.rows(), found.compare, found.within)
    board = board.drop(columns=[name for name in found.within if name not in seen.strata])
    given = (board, found.compare, found.reference, found.metric)
    picture = forest(*given), describe_forest(*given)
    return told(picture, seen.rows(), str(found.reference), found.compare)


def under_shift(seen: Seen) -> Picture:
    """Balanced accuracy by severity over all strata, of the levels that were run in all of them."""
    found = seen.found
    complete = found.overall.loc[found.overall["complete"], "level"]
    table = found.folded[found.folded[found.compare].isin(complete)]
    curve = severity_curve(table, found.compare)
    curve = marked_board(curve, seen.rows(shifted=True), found.compare)
    return severity(curve, found.compare), describe_severity(curve, found.compare)


def collapses(studies: Sequence[Seen]) -> str:
    """Say which ways of training give constant classifiers and how often, by data set and shift."""
    main_study, grid, federation = studies
    official = ["cohort"]
    clean = _by_level(main_study, main_study.rows())
    shifted = _by_level(main_study, main_study.rows(shifted=True))
    both = pd.concat([clean, shifted.assign(method=shifted["method"] + " under shift")])
    parts = [(str(name), rows, official) for name, rows in both.groupby("cohort", sort=False)]
    parts.append(("breast, one setting at a time", _by_level(grid, grid.rows()), official))
    parts.append(("models that merge", _by_level(federation, federation.rows()), ["cohort", "seed"]))
    return collapsed(parts)


def _by_level(seen: Seen, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the compared level as the method, behind it the method where there are several."""
    names = rows[seen.found.compare]
    if rows["method"].nunique() > 1:
        names = rows["method"] + " of " + names
    return rows.assign(method=names)


def dynamics(folder: Path) -> tuple[str, dict[str, Picture]]:
    """How merges grow by threshold, in words; and the three figures at the lowest threshold."""
    paths = {float(re.findall(r"tau-([\d.]+)-", p.name)[0]): p for p in folder.glob("inmerge-*-merges.csv")}
    if not paths:
        raise FedMergeError(
            f"no inmerge-*-merges.csv in '{folder}': "
            "run `python -m benchmarks.studies.inmerge_dynamics` first."
        )
    lines = []
    for tau in sorted(paths, reverse=True):
        by_epoch = pd.read_csv(paths[tau]).groupby("epoch")["merges"].sum()
        first, last = (thousands(int(by_epoch.iloc[end])) for end in (0, -1))
        ends = f"{first} in the first epoch, {last} in the last of {len(by_epoch)}"
        lines.append(f"- threshold {tau:g}: {count(int(by_epoch.sum()), 'filter')} merged, {ends}")
    lowest = paths[min(paths)]
    part = set(pd.read_csv(lowest)["layer"])
    pictures = {}
    for name in ("merges", "effective-rank", "similarity"):
        frame = pd.read_csv(lowest.with_name(lowest.name.replace("-merges.csv", f"-{name}.csv")))
        frame = frame[frame["layer"].isin(part)].reset_index(drop=True)
        function = name.replace("-", "_")
        made = getattr(merging, function)(frame), getattr(merging, f"describe_{function}")(frame)
        pictures[f"dynamics-{name}"] = made
    return "\n".join(lines), pictures


def numbers(studies: Iterable[Seen]) -> str:
    """The leaderboards over all strata as JSON."""
    kept = ["level", "mean", "low", "high", *BOUNDS, "wins", "losses", "ties", "complete"]
    leaderboards = {
        seen.study.config.name: json.loads(seen.found.overall[kept].round(6).to_json(orient="records"))
        for seen in studies
    }
    return json.dumps(leaderboards, indent=1) + "\n"


def blocks_of(studies: Sequence[Seen]) -> dict[str, str]:
    """Return the blocks made from scores and merges alone, without the figures and what is beside them."""
    main_study, grid, federation = studies
    controls = [level for level in main_study.options if level not in main_study.merging]
    return {
        "answer": tables.answer(main_study),
        "collapsed": collapses(studies),
        "main-rules": tables.rules(main_study),
        "main-overall": tables.overall_table(main_study),
        "main-merging": tables.strata_table(main_study, [*main_study.merging, *controls]),
        "main-others": tables.strata_table(main_study, main_study.others),
        "main-control": tables.control(main_study),
        "main-shift": tables.shift_table(main_study),
        "main-merges": tables.merges_table(main_study),
        "grid-table": tables.grid_table(grid),
        "grid-rules": tables.rules(grid),
        "federation-table": tables.strata_table(federation, federation.merging, records=True),
        "federation-merges": tables.merges_table(federation),
        "federation-rules": tables.rules(federation),
    }


def pictures_of(studies: Sequence[Seen]) -> dict[str, Picture]:
    """Return the figures made from scores alone."""
    main_study, grid, federation = studies
    pictures = {"main": differences(main_study), "shift": under_shift(main_study)}
    return pictures | {"grid": differences(grid), "federation": differences(federation)}


def write(studies: Sequence[Seen], out: Path, scores: Path, measured: Path) -> None:
    """Write page, figures, numbers and CSVs."""
    grown, pictures = dynamics(measured)
    records = {"dynamics": grown, "provenance": provenance(seen.study for seen in studies)}
    write_page(out / f"{PAGE}.md", records | blocks_of(studies), pictures | pictures_of(studies))
    write_numbers(studies, out)
    for seen in studies:
        save_scores(seen.study, tables.SCORES, scores)
        tables.save_merges(seen, scores)


def write_numbers(studies: Sequence[Seen], out: Path) -> None:
    """Write numbers.json beside the figures."""
    (out / PAGE / "numbers.json").write_text(numbers(studies), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the three studies and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("main", type=Path, help="folder of the study bench-inmerge")
    parser.add_argument("grid", type=Path, help="folder of the study bench-inmerge-grid")
    parser.add_argument("federation", type=Path, help="folder of the study bench-inmerge-federation")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help=f"where {PAGE}.md is")
    parser.add_argument("--scores", type=Path, default=RESULTS, help="folder of the CSVs to write")
    parser.add_argument("--dynamics", type=Path, default=RESULTS, help="CSVs of inmerge_dynamics.py")
    args = parser.parse_args(argv)
    studies = [tables.look_at(folder) for folder in (args.main, args.grid, args.federation)]
    write(studies, args.out, args.scores, args.dynamics)


if __name__ == "__main__":
    main()
