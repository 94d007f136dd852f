"""Write a finished study's scores as CSV: `python -m benchmarks.studies.papers.scores FOLDER`.

FOLDER is what `fedmerge bench bench-testtime-pacs-gradients` left; the rows go into benchmarks/results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS
from benchmarks.pages import save_scores
from benchmarks.studies.testtime_scores import SCORES
from fedmerge.workflows.bench.study import open_study


def main(argv: Sequence[str] | None = None) -> None:
    """Write the scores of the folder's study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    save_scores(open_study(args.folder), SCORES, args.out)


if __name__ == "__main__":
    main()
