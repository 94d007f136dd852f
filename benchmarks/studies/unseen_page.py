"""The page on unseen hospitals: its tables, sentences and figures, from the rows in benchmarks/results.

`python -m benchmarks.studies.unseen_page` writes what stands between <!-- begin NAME --> and <!-- end NAME
--> in docs/studies/test-time.md anew, and what README and docs/evidence.md say of it. Give folders that
`fedmerge bench` left for bench-unseen-* to take their scores over into benchmarks/results first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import RESULTS, ROOT
from benchmarks.pages import Picture, fill, write_page
from benchmarks.studies import unseen_batches as batches
from benchmarks.studies import unseen_tables as tables
from benchmarks.studies.unseen_scores import (
    AGAIN,
    DEVELOPMENT,
    FEDERATED,
    FIRST,
    FIRST_DEFAULT,
    GROUP,
    METRIC,
    SCRATCH,
    SECOND_DEVELOPMENT,
    TRANSFORMER,
    board,
    keep,
    read,
)
from fedmerge.reports.figures import cost, forest
from fedmerge.reports.figures.cost import describe_cost
from fedmerge.reports.figures.forest import describe_forest

PAGE = "test-time"
SAYING = (ROOT / "README.md", ROOT / "docs" / "evidence.md")
NOT_DRAWN = ("majority-class", "oracle-best-source")


def blocks_of(results: Path) -> dict[str, str]:
    """Return the blocks of the page."""
    first, development = (read(results, parts) for parts in (FIRST, DEVELOPMENT))
    again, scratch, group, transformer = (
        read(results, parts) for parts in (AGAIN, SCRATCH, GROUP, TRANSFORMER)
    )
    return {
        "scratch-headline": tables.headline(scratch),
        "again-headline": tables.headline(again),
        "scratch-overall": tables.overall(scratch),
        "scratch-streams": tables.streams(scratch),
        "scratch-hospitals": tables.hospitals(scratch),
        "again-overall": tables.overall(again),
        "again-hospitals": tables.hospitals(again),
        "group-overall": tables.overall(group),
        "scratch-choice": tables.choice(scratch),
        "transformer": tables.measured(transformer),
        "batches": batches.sizes(results),
        "long-streams": batches.long_streams(results),
        "left-out": "\n".join(tables.left_out(each) for each in (scratch, again, group, transformer)),
        "rules": tables.rules(scratch),
        "second-development": tables.development(read(results, SECOND_DEVELOPMENT[:2])),
        "second-development-pretrained": tables.development(read(results, SECOND_DEVELOPMENT[2:])),
        "headline": tables.headline(first, FIRST_DEFAULT),
        "overall": tables.overall(first),
        "streams": tables.streams(first),
        "development": tables.development(development),
        "choice": tables.choice(read(results, (*FIRST, *DEVELOPMENT))),
        "first-left-out": "\n".join(tables.left_out(each) for each in (first, development)),
    }


def pictures_of(results: Path) -> dict[str, Picture]:
    """Return the figures of both kinds of networks: differences from the federated model, and cost."""
    found: dict[str, Picture] = {}
    for name, parts in (("scratch", SCRATCH), ("again", AGAIN)):
        seen = read(results, parts)
        shown = replace(seen, rows=seen.rows[~seen.rows["method"].isin(NOT_DRAWN)])
        known = board(shown, FEDERATED, METRIC).reset_index()
        drawn = (known, "method", FEDERATED, METRIC)
        found[f"{name}-differences"] = (forest(*drawn), describe_forest(*drawn))
        found[f"{name}-cost"] = (
            cost(known, "method", metric=METRIC),
            describe_cost(known, "method", metric=METRIC),
        )
    return found


def write(results: Path, out: Path) -> None:
    """Write the page and its figures."""
    write_page(out / f"{PAGE}.md", blocks_of(results), pictures_of(results))


def write_sentences(results: Path) -> None:
    """Write what README and the page of evidence say of it."""
    said = {"unseen": tables.summary(read(results, SCRATCH), read(results, AGAIN))}
    for page in SAYING:
        page.write_text(fill(page.read_text(encoding="utf-8"), said), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Take scores over, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders of studies bench-unseen-*")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help=f"where {PAGE}.md is")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    args = parser.parse_args(argv)
    for folder in args.folders:
        keep(folder, args.results)
    write(args.results, args.out)
    write_sentences(args.results)


if __name__ == "__main__":
    main()
