"""The page of the first study on test-time methods, written anew from finished studies.

Give the folders that `fedmerge bench` left for bench-testtime-pacs, -digits, -pneumonia, -wbc and -mixed:
`python -m benchmarks.studies.testtime_page PACS DIGITS PNEUMONIA WBC MIXED --out docs/studies`. What stands
between <!-- begin NAME --> and <!-- end NAME --> in test-time-first.md is replaced; figures go into the
folder of that name, each study's scores as CSV into benchmarks/results, where testtime-speed.json is read
from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import RESULTS
from benchmarks.pages import Picture, provenance, save_scores, write_page
from benchmarks.studies import testtime_tables as tables
from benchmarks.studies.one_class import collapsed, marked_board, told
from benchmarks.studies.testtime_scores import ENSEMBLE, MEAN, OURS, PAPER, SCORES, Seen, board, look_at
from fedmerge.reports.figures import cost, forest
from fedmerge.reports.figures.cost import describe_cost
from fedmerge.reports.figures.forest import describe_forest

PAGE = "test-time-first"
BENCHES = ("pacs", "digits", "pneumonia", "wbc")
CHOSEN, PROBED = ("digits", "wbc"), ("pacs", "digits")
"""The studies with the node's other choices, and with its probes."""
SPEED = [RESULTS / "testtime-speed.json", RESULTS / "testtime-speed-gpu.json"]
STATIC = (MEAN, "greedy", ENSEMBLE)


def frontier(seen: Seen) -> Picture:
    """Plot accuracy against passes: the full node, the node with every probe, and the references.

    Only probes that every study has are plotted, so that all points are of the same targets.
    """
    probes = [name for name in seen.methods(choices=True) if "probe" in name and seen.everywhere(name)]
    rows = seen.rows[seen.rows["method"].isin([*STATIC, PAPER, OURS, *probes])]
    given = (marked_board(board(seen._replace(rows=rows), MEAN).reset_index(), rows, "method"), "method")
    return cost(*given), describe_cost(*given)


def differences(seen: Seen) -> Picture:
    """Paired differences from mean merging of every method that all studies have."""
    rows = seen.rows[seen.rows["method"].isin(seen.methods())]
    marked = marked_board(board(seen._replace(rows=rows), MEAN).reset_index(), rows, "method")
    given = (marked, "method", MEAN, "accuracy")
    return told((forest(*given), describe_forest(*given)), rows, MEAN, "method")


def collapses(seen: Seen, mixed: Seen) -> str:
    """Say which methods are constant classifiers and how often, in each study and on mixed streams."""
    parts = {}
    for name, study in seen.studies.items():
        alone = study.done[study.done["kind"] == "alone"]
        alone = alone.assign(method="a hospital alone", site=name + " " + alone["site"])
        parts[name] = pd.concat([seen.of(bench=name).rows, alone])
    for kind in mixed.rows["data"].unique():
        parts[f"{kind}, two hospitals in one stream"] = mixed.of(data=kind).rows
    return collapsed((name, rows, ["site", "seed"]) for name, rows in parts.items())


def blocks_of(seen: Seen, mixed: Seen, speed: Sequence[Path]) -> dict[str, str]:
    """Return the blocks made from scores and times alone, without the figures."""
    blocks = {f"bench-{name}": tables.bench_table(seen, name) for name in seen.benches}
    return blocks | {
        "answer": tables.answer(seen),
        "collapsed": collapses(seen, mixed),
        "overall": tables.overall_table(seen),
        "targets": tables.targets_table(seen),
        "choices": tables.choices_table(seen, CHOSEN, probes=False),
        "choices-pneumonia": tables.choices_table(seen, ("pneumonia",), probes=False),
        "probes": tables.choices_table(seen, PROBED, probes=True),
        "mixed": tables.mixed_table(mixed),
        "speed": "\n\n".join(tables.speed_table(path) for path in speed),
        "rules": tables.rules(seen),
    }


def pictures_of(seen: Seen) -> dict[str, Picture]:
    """Return the figures, all made from scores alone."""
    probed = seen._replace(rows=seen.rows[seen.rows["bench"].isin(PROBED)])
    return {"differences": differences(seen), "frontier": frontier(probed)}


def write(seen: Seen, mixed: Seen, out: Path, scores: Path, speed: Sequence[Path]) -> None:
    """Write page, figures and CSVs."""
    studies = [*seen.studies.values(), *mixed.studies.values()]
    blocks = blocks_of(seen, mixed, speed) | {"provenance": provenance(studies)}
    write_page(out / f"{PAGE}.md", blocks, pictures_of(seen))
    for study in studies:
        save_scores(study, SCORES, scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the studies and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in BENCHES:
        parser.add_argument(name, type=Path, help=f"folder of the study bench-testtime-{name}")
    parser.add_argument("mixed", type=Path, help="folder of the study bench-testtime-mixed")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help=f"where {PAGE}.md is")
    parser.add_argument("--scores", type=Path, default=RESULTS, help="folder of the CSVs to write")
    parser.add_argument("--speed", type=Path, nargs="+", default=SPEED, help="what testtime.py wrote")
    args = parser.parse_args(argv)
    seen = look_at({name: getattr(args, name) for name in BENCHES})
    write(seen, look_at({"mixed": args.mixed}), args.out, args.scores, args.speed)


if __name__ == "__main__":
    main()
