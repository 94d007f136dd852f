"""The picture of docs/analysis.md: the plane through the quickstart's first three hospitals.

Run `fedmerge run quickstart`, then `python -m benchmarks.studies.analysis_figure runs/quickstart-001`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT
from benchmarks.pages import render
from fedmerge.reports.figures.diagnosis import draw
from fedmerge.workflows.analyse import analyse


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse the run and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run of the quickstart")
    parser.add_argument("--grid", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "analysis" / "landscape.png")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        given = {"only": ["landscape"], "changes": [f"landscape.grid={args.grid}"], "device": "cpu"}
        found = analyse([args.run], out=folder, **given).findings["landscape"]
    figure = draw("landscape", found)
    assert figure is not None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(render(figure))
    print(found.sentence)


if __name__ == "__main__":
    main()
