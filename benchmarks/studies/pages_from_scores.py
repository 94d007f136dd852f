"""The pages of the studies, written again from the scores in benchmarks/results.

The studies take hours, their pages seconds; so after a change of tables, sentences or figures run `python
-m benchmarks.studies.pages_from_scores`, or name some of the pages: fusion, test-time, test-time-first,
in-model-merging. Tables, sentences and figures are made anew. What only the jobs have on record stays as it
is: how many images there were, what failed, devices and versions. A study's own script writes the same page
from its folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks import RESULTS, ROOT
from benchmarks.pages import Picture, kept, write_page
from benchmarks.studies import (
    fusion_page,
    fusion_scores,
    inmerge_page,
    inmerge_tables,
    testtime_page,
    testtime_scores,
    unseen_page,
)
from fedmerge.schema.validation import load_yaml, validate
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.study import Study

CONFIGS = ROOT / "configs"
CLASSES = {"digits": 10, "pneumonia": 2, "pacs": 7, "wbc": 4, "breast": 2, "retina": 5}
"""Classes in the labels, by data set: for chance, and to tell constant classifiers."""
DATA = {
    "bench-fusion-samples": "digits",
    "bench-inmerge-grid": "breast",
    "bench-inmerge-federation": "pneumonia",
}
"""The data set of studies whose scores and name do not say it."""


def study_of(config: Path, results: Path) -> Study:
    """A study from its configuration and NAME.csv, where columns of one value are left out."""
    read = validate(BenchConfig, load_yaml(config), str(config))
    table = pd.read_csv(results / f"{read.name}.csv", keep_default_na=False, na_values=[""])
    cohort = table.get("data", read.name)
    usual = {"cohort": cohort, "model": "the same", "site": _site(read), "stream": "iid", "shift": "none"}
    usual |= {"severity": 0, "method": "alone:one", "status": "done", "reason": ""}
    table = table.assign(**{name: value for name, value in usual.items() if name not in table})
    table["kind"] = table["method"].map(_kind)
    data = table["cohort"].map(lambda name: DATA.get(name, name.rpartition("-")[-1]))
    table["auroc_classes"] = data.map(CLASSES)
    return Study(read, table, pd.DataFrame(), {}, results)


def _site(config: BenchConfig) -> str:
    """The one site of a study whose table names none."""
    base = config.base if isinstance(config.base, dict) else {}
    return "mixed" if base.get("evaluation", {}).get("mixed") else "one"


def _kind(method: str) -> str:
    """Return a method's kind: ``alone``, ``oracle`` (both treated apart), or ``fusion`` for all others."""
    name = method.partition(":")[0]
    return name if name == "alone" else "oracle" if name.startswith("oracle") else "fusion"


def fusion(results: Path, out: Path) -> None:
    main_study, samples = (
        fusion_scores.seen_of(study_of(CONFIGS / f"{name}.yaml", results))
        for name in ("bench-fusion", "bench-fusion-samples")
    )
    blocks, pictures = (
        fusion_page.blocks_of(main_study, samples),
        fusion_page.pictures_of(main_study, samples),
    )
    rewrite(out / f"{fusion_page.PAGE}.md", blocks, pictures)


def test_time(results: Path, out: Path) -> None:
    studies = {
        name: study_of(CONFIGS / f"bench-testtime-{name}.yaml", results)
        for name in (*testtime_page.BENCHES, "mixed")
    }
    mixed = testtime_scores.seen_of({"mixed": studies.pop("mixed")})
    seen = testtime_scores.seen_of(studies)
    blocks = testtime_page.blocks_of(seen, mixed, testtime_page.SPEED)
    rewrite(out / f"{testtime_page.PAGE}.md", blocks, testtime_page.pictures_of(seen))


def unseen(results: Path, out: Path) -> None:
    unseen_page.write(results, out)


def in_model_merging(results: Path, out: Path) -> None:
    seen = []
    for name in ("bench-inmerge", "bench-inmerge-grid", "bench-inmerge-federation"):
        merges = pd.read_csv(inmerge_tables.merges_file(results, name))
        seen.append(inmerge_tables.seen_of(study_of(CONFIGS / f"{name}.yaml", results), merges))
    rewrite(out / f"{inmerge_page.PAGE}.md", inmerge_page.blocks_of(seen), inmerge_page.pictures_of(seen))
    inmerge_page.write_numbers(seen, out)


def rewrite(path: Path, blocks: dict[str, str], pictures: dict[str, Picture]) -> None:
    """Fill the page; blocks and figures that are not given stay."""
    write_page(path, kept(path.read_text(encoding="utf-8")) | blocks, pictures)


PAGES: dict[str, Callable[[Path, Path], None]] = {
    fusion_page.PAGE: fusion,
    testtime_page.PAGE: test_time,
    unseen_page.PAGE: unseen,
    inmerge_page.PAGE: in_model_merging,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help=f"any of {', '.join(PAGES)}; all of them by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help="where the pages are")
    args = parser.parse_args(argv)
    if unknown := set(args.pages) - set(PAGES):
        parser.error(f"there is no page {', '.join(sorted(unknown))}; there are {', '.join(PAGES)}")
    for name in args.pages or PAGES:
        PAGES[name](args.results, args.out)


if __name__ == "__main__":
    main()
