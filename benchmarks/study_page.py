"""The page on in-model merging: its numbers, tables and figures, written anew from three finished studies.

Give the folders that `fedmerge bench` left for bench-inmerge, bench-inmerge-grid, bench-inmerge-federation:
`python benchmarks/study_page.py MAIN GRID FEDERATION --out docs/studies`. What stands between
<!-- begin NAME --> and <!-- end NAME --> in in-model-merging.md is replaced; figures and numbers.json go into
the folder of that name, each study's scores as CSV into benchmarks/results.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import study_tables as tables
from matplotlib.figure import Figure
from study_tables import BOUNDS, Seen

from fedmerge.analysis import severity_curve
from fedmerge.errors import FedMergeError
from fedmerge.study.bench.study import Study
from fedmerge.study.figures import forest, merging, severity, style
from fedmerge.study.figures.forest import describe_forest
from fedmerge.study.figures.severity import describe_severity
from fedmerge.study.words import count, thousands

PAGE = "in-model-merging"
RESULTS = Path(__file__).parent / "results"
SCORES = ["accuracy", "balanced_accuracy", "auroc", "ece", "brier"]
CSV_ENDS = ["seed", "site", "stream", "shift", "severity"]
DPI = 110

Picture = tuple[Figure, style.Caption]


def render(made: Figure) -> bytes:
    """A small PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(style.STYLE):
        made.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def differences(seen: Seen) -> Picture:
    """Paired differences, a panel a stratum."""
    found = seen.found
    board = found.boards.drop(columns=[name for name in found.within if name not in seen.strata])
    given = (board, found.compare, found.reference, found.metric)
    return forest(*given), describe_forest(*given)


def under_shift(seen: Seen) -> Picture:
    """Balanced accuracy by severity over all strata, of the levels that were run in all of them."""
    found = seen.found
    complete = found.overall.loc[found.overall["complete"], "level"]
    table = found.folded[found.folded[found.compare].isin(complete)]
    curve = severity_curve(table, found.compare)
    return severity(curve, found.compare), describe_severity(curve, found.compare)


def dynamics(folder: Path) -> tuple[str, dict[str, Picture]]:
    """How merges grow by threshold, in words; and the three figures at the lowest threshold."""
    paths = {float(re.findall(r"tau-([\d.]+)-", p.name)[0]): p for p in folder.glob("inmerge-*-merges.csv")}
    if not paths:
        raise FedMergeError(
            f"no inmerge-*-merges.csv in '{folder}': run benchmarks/inmerge_dynamics.py first."
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


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between each pair of markers. Raises FedMergeError unless all names have both."""
    marked = re.findall(r"<!-- begin (\S+) -->.*?<!-- end \1 -->", page, re.DOTALL)
    for name in [*blocks, *marked]:
        if name not in blocks or marked.count(name) != 1:
            raise FedMergeError(
                f"the page and its numbers do not fit: block '{name}' must be known and stand exactly once, "
                f"as <!-- begin {name} --> and <!-- end {name} -->. Known: {', '.join(blocks)}."
            )
    for name, text in blocks.items():
        ends = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = f"{ends[0]}.*?{ends[1]}"
        whole = f"{ends[0]}\n{text}\n{ends[1]}"
        page = re.sub(pattern, lambda _, whole=whole: whole, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def compact(study: Study) -> pd.DataFrame:
    """The scores of the finished rows; a column that has one value throughout is left out."""
    names = list(dict.fromkeys([*study.config.axes, *CSV_ENDS, "method"]))
    table = study.done[[*names, *SCORES]]
    return table.drop(columns=[name for name in names if name != "seed" and table[name].nunique() == 1])


def numbers(studies: Iterable[Seen]) -> str:
    """The leaderboards over all strata as JSON."""
    kept = ["level", "mean", "low", "high", *BOUNDS, "wins", "losses", "ties", "complete"]
    boards = {
        seen.study.config.name: json.loads(seen.found.overall[kept].round(6).to_json(orient="records"))
        for seen in studies
    }
    return json.dumps(boards, indent=1) + "\n"


def write(studies: Sequence[Seen], out: Path, scores: Path, measured: Path) -> None:
    """Write page, figures, numbers and CSVs. studies: the main one, the grid, the federation."""
    main_study, grid, federation = studies
    grown, pictures = dynamics(measured)
    pictures |= {"main": differences(main_study), "shift": under_shift(main_study)}
    pictures |= {"grid": differences(grid), "federation": differences(federation)}
    controls = [level for level in main_study.options if level not in main_study.merging]
    blocks = {
        "answer": tables.answer(main_study),
        "main-rules": tables.rules(main_study),
        "main-overall": tables.overall_table(main_study),
        "main-merging": tables.strata_table(main_study, [*main_study.merging, *controls]),
        "main-others": tables.strata_table(main_study, main_study.others),
        "main-control": tables.control(main_study),
        "main-shift": tables.shift_table(main_study),
        "main-merges": tables.merges_table(main_study),
        "dynamics": grown,
        "grid-table": tables.grid_table(grid),
        "grid-rules": tables.rules(grid),
        "federation-table": tables.strata_table(federation, federation.merging, records=True),
        "federation-merges": tables.merges_table(federation),
        "federation-rules": tables.rules(federation),
        "provenance": tables.provenance(studies),
    }
    folder = out / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    scores.mkdir(parents=True, exist_ok=True)
    for name, (made, caption) in pictures.items():
        (folder / f"{name}.png").write_bytes(render(made))
        blocks[f"figure-{name}"] = f"![{re.sub(r'[][]', '', caption.title)}]({PAGE}/{name}.png)"
    path = out / f"{PAGE}.md"
    path.write_text(fill(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    (folder / "numbers.json").write_text(numbers(studies), encoding="utf-8")
    for seen in studies:
        csv = scores / f"{seen.study.config.name}.csv"
        compact(seen.study).to_csv(csv, index=False, float_format="%.4g", lineterminator="\n")


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
