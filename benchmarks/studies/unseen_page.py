"""The page on unseen hospitals: its tables, sentences and figures, from the rows in benchmarks/results.

`python -m benchmarks.studies.unseen_page` writes what stands between <!-- begin NAME --> and <!-- end NAME
--> in docs/studies/test-time.md anew. Give folders that `fedmerge bench` left for bench-unseen-* to take
their scores over into benchmarks/results first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS
from benchmarks.pages import Picture, write_page
from benchmarks.studies import unseen_tables as tables
from benchmarks.studies.unseen_scores import (
    DEVELOPMENT,
    FEDERATED,
    HEADLINE,
    METRIC,
    Seen,
    board,
    keep,
    read,
)
from fedmerge.reports.figures import cost, forest
from fedmerge.reports.figures.cost import describe_cost
from fedmerge.reports.figures.forest import describe_forest

PAGE = "test-time"
NOT_DRAWN = ("majority-class", "oracle-best-source")


def blocks_of(seen: Seen) -> dict[str, str]:
    """Return the blocks of the page."""
    headline, development = seen.of(*HEADLINE), seen.of(*DEVELOPMENT)
    return {
        "headline": tables.headline(headline),
        "overall": tables.overall(headline),
        "streams": tables.streams(headline),
        "hospitals": tables.hospitals(headline),
        "development": tables.development(development),
        "development-streams": tables.streams(development),
        "choice": tables.choice(seen),
        "left-out": tables.left_out(seen),
        "rules": tables.rules(headline),
    }


def pictures_of(seen: Seen) -> dict[str, Picture]:
    """Return the figures: differences from the federated model, and accuracy against passes."""
    headline = seen.of(*HEADLINE)
    shown = headline._replace(rows=headline.rows[~headline.rows["method"].isin(NOT_DRAWN)])
    known = board(shown, FEDERATED, METRIC).reset_index()
    drawn = (known, "method", FEDERATED, METRIC)
    return {
        "differences": (forest(*drawn), describe_forest(*drawn)),
        "cost": (
            cost(known, "method", metric=METRIC),
            describe_cost(known, "method", metric=METRIC),
        ),
    }


def write(seen: Seen, out: Path) -> None:
    """Write the page and its figures."""
    write_page(out / f"{PAGE}.md", blocks_of(seen), pictures_of(seen))


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
    write(read(args.results), args.out)


if __name__ == "__main__":
    main()
