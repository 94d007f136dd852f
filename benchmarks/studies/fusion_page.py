"""The page on fusing networks: its numbers, tables and figures, written anew from two studies.

Give the folders that `fedmerge bench` left for bench-fusion and bench-fusion-samples: `python -m
benchmarks.studies.fusion_page MAIN SAMPLES --out docs/studies`. What stands between <!-- begin NAME --> and
<!-- end NAME --> in fusion.md is replaced; figures go into the folder of that name, each study's scores as
CSV into benchmarks/results. A study that is not finished gives a page that says what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import RESULTS
from benchmarks.pages import Picture, provenance, save_scores, write_page
from benchmarks.studies import fusion_claims as claims
from benchmarks.studies import fusion_figures as figures
from benchmarks.studies import fusion_tables as tables
from benchmarks.studies.fusion_scores import SCORES, Seen, look_at
from benchmarks.studies.one_class import collapsed

PAGE = "fusion"
DATA, STARTS, NUMBERS = ("digits", "pneumonia", "pacs"), ("independent", "shared"), ("2", "4")


def records_of(seen: Seen, samples: Seen) -> dict[str, str]:
    """Return the blocks that need the jobs' records, and not scores alone."""
    both = [seen.study, samples.study]
    return {
        "tested": tables.tested(seen),
        "fusion-set": tables.fusion_set(both),
        "failures": tables.failures(both),
        "provenance": provenance(both),
    }


def blocks_of(seen: Seen, samples: Seen) -> dict[str, str]:
    """Return the blocks made from scores alone, without the figures."""
    blocks = {
        "answer": claims.answer(seen),
        "collapsed": collapses(seen, samples),
        "rules": tables.rules(seen),
        "neurons": claims.claims_table(seen, claims.NEURONS, claims.FUSION),
        "averages": claims.claims_table(seen, claims.AVERAGES, claims.SOUPS),
        "ablations": tables.ablation_table(seen),
        "around-start": tables.around_start_table(seen),
        "missing": tables.gaps([seen.study, samples.study]),
    }
    blocks |= {f"methods-{start}": tables.methods_table(seen, start) for start in STARTS}
    blocks |= {f"controls-{start}": tables.controls_table(seen, start) for start in STARTS}
    blocks |= {
        f"{data}-{start}": tables.settings_table(seen, data, start) for data in DATA for start in STARTS
    }
    return blocks | {f"samples-{number}": tables.samples_table(samples, number) for number in NUMBERS}


def collapses(seen: Seen, samples: Seen) -> str:
    """Say which methods are constant classifiers and how often; all parents alone count together."""
    parts = {data: seen.of(data=data) for data in seen.levels("data")} | {"digits, by fusion images": samples}
    rows = []
    for name, part in parts.items():
        methods = part.rows[part.rows["kind"] != "parents"]
        every = pd.concat([methods, part.single.assign(method="a parent alone")])
        sets = [axis for axis in part.axes if axis not in ("start", "images")]
        rows.append((name, every, [*sets, "seed"]))
    return collapsed(rows)


def pictures_of(seen: Seen, samples: Seen) -> dict[str, Picture]:
    """Return the figures, all made from scores alone."""
    pictures = {start: figures.beside_parents(seen, start) for start in STARTS}
    return pictures | {"distillation": figures.against_control(seen), "samples": figures.by_images(samples)}


def write(seen: Seen, samples: Seen, out: Path, scores: Path) -> None:
    """Write page, figures and CSVs."""
    blocks = records_of(seen, samples) | blocks_of(seen, samples)
    write_page(out / f"{PAGE}.md", blocks, pictures_of(seen, samples))
    for each in (seen, samples):
        save_scores(each.study, SCORES, scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the two studies and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("main", type=Path, help="folder of the study bench-fusion")
    parser.add_argument("samples", type=Path, help="folder of the study bench-fusion-samples")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help=f"where {PAGE}.md is")
    parser.add_argument("--scores", type=Path, default=RESULTS, help="folder of the CSVs to write")
    args = parser.parse_args(argv)
    write(look_at(args.main), look_at(args.samples), args.out, args.scores)


if __name__ == "__main__":
    main()
