"""Compute the rows behind the pages on the four papers: `python -m benchmarks.studies.papers.study mirage`.

Cells and trained networks are kept in ``--work``; what is there is not computed again. Writes
papers-NAME.csv into benchmarks/results once all cells are there. FEDMERGE_DATA names the image sets' folder.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.studies.papers import cells
from benchmarks.studies.papers.networks import Sizes, Workshop

STUDIES = {
    "mirage": "mirage",
    "rethinking": "rethinking",
    "neuron-interpolation": "neurons",
    "in-model-merging": "filters",
}
"""By page: the module of its study."""


def main(argv: Sequence[str] | None = None) -> None:
    """Compute the cells of the named studies, each printed when it is done, and write their rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder of cells and networks")
    parser.add_argument(
        "--kept", action="store_true", help="compute nothing: write the rows of the cells that are there"
    )
    parser.add_argument("--cells", default="", help="compute only cells whose name holds this; write no rows")
    parser.add_argument("--add", action="store_true", help="put the rows of --cells into the CSV")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for name in args.names:
        if args.cells:
            few(name, args.work, args.seeds, args.cells, args.out if args.add else None, args.kept)
        else:
            run(name, args.work, args.seeds, args.out, only_kept=args.kept)


def run(
    name: str, work: Path, seeds: int, out: Path, sizes: Sizes | None = None, only_kept: bool = False
) -> None:
    """Compute one study at its own sizes, or at others, and write its rows."""
    study = importlib.import_module(f"benchmarks.studies.papers.{STUDIES[name]}")
    shop = Workshop(work, sizes or study.SIZES)
    rows = cells.computed(study.cells(shop, seeds), shop.folder / name, partial(print, flush=True), only_kept)
    cells.save(list(rows), out / f"papers-{name}.csv")


def few(
    name: str, work: Path, seeds: int, text: str, out: Path | None = None, only_kept: bool = False
) -> None:
    """Compute the cells of a study whose name holds a text; with ``out`` their rows are added to its CSV."""
    study = importlib.import_module(f"benchmarks.studies.papers.{STUDIES[name]}")
    chosen = [each for each in study.cells(Workshop(work, study.SIZES), seeds) if text in each.name]
    rows = list(cells.computed(chosen, work / name, partial(print, flush=True), only_kept))
    if out is not None:
        cells.add(rows, out / f"papers-{name}.csv")


if __name__ == "__main__":
    main()
