"""Write docs/papers from the committed rows: `python -m benchmarks.studies.papers.pages`, in seconds.

Names of pages, or all; ``--out`` says where they lie. What stands between <!-- begin NAME --> and
<!-- end NAME --> is replaced, figures go into the folder of a page's name.
"""

from __future__ import annotations

import argparse
import functools
import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS, ROOT
from benchmarks.pages import markdown, write_page
from benchmarks.studies.papers.claims import (
    HOLDS,
    NOT,
    OPEN,
    PART,
    UNTESTABLE,
    UNTESTED,
    VERDICTS,
    Claim,
    Decided,
    Rows,
    decide,
)  # fmt: skip
from benchmarks.studies.papers.figures import pictures_of
from benchmarks.studies.papers.study import STUDIES
from fedmerge.experiment.formatting import listing

INDEX = "index"
TITLES = {
    "in-model-merging": "In-Model Merging", "rethinking": "Rethinking Weight-Averaged Model-merging",
    "neuron-interpolation": "Model Fusion via Neuron Interpolation", "mirage": "The Mean is the Mirage",
}  # fmt: skip


@functools.lru_cache
def decided(name: str, rows: Rows) -> list[Decided]:
    """Return the decided claims of a page."""
    claims: Sequence[Claim] = importlib.import_module(f"{__package__}.{STUDIES[name]}_claims").CLAIMS
    return [decide(claim, rows) for claim in claims]


def tally(found: Sequence[Decided]) -> str:
    """Say how many claims were tested, and how they fared."""
    counts = Counter(each.verdict for each in found)
    tested = len(found) - counts[UNTESTABLE] - counts[UNTESTED]
    words = {HOLDS: "hold here", PART: "hold in part", NOT: "do not hold here", OPEN: "stay open"}
    fared = listing([f"{counts[verdict]} {word}" for verdict, word in words.items()])
    return (
        f"**Of {len(found)} claims {tested} were tested: {fared}.** {counts[UNTESTABLE]} more cannot be "
        f"tested here, {counts[UNTESTED]} not yet."
    )


def answer(found: Sequence[Decided]) -> str:
    """Return the outcome of the claims that count most, a line each."""
    lines = [
        f"- {each.claim.key}: {_margin(each)}; {each.verdict}"
        for each in found
        if each.claim.key and each.seeds
    ]
    return "\n".join([tally(found), "", *lines])


def table(found: Sequence[Decided]) -> str:
    """Return a line a claim."""
    head = [
        "the paper",
        "it says",
        "verdict",
        "measured here",
        "margin",
        "settings above / below / all",
        "seeds",
    ]
    return markdown(head, [_line(each) for each in found], 4)


def _line(found: Decided) -> list[str]:
    claim, told = found.claim, f"**{found.verdict}**"
    if not found.seeds:
        return [claim.place, claim.says, told, claim.why or claim.here, "", "", ""]
    settings = "" if claim.every else f"{found.above} / {found.below} / {found.settings}"
    return [claim.place, claim.says, told, claim.here, _margin(found), settings, str(found.seeds)]


def _margin(found: Decided) -> str:
    if found.claim.every:
        return f"{100 * found.mean:.1f} % of cases"
    name, factor = found.claim.unit
    mean, low, high = (_number(factor * value) for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high}) {name}".strip()


def _number(value: float) -> str:
    text = f"{value:+.2f}" if abs(value) < 10 else f"{value:+.1f}"
    return text.replace("-", "−")


def counts(pages: dict[str, list[Decided]]) -> str:
    """Return the count of verdicts, a line a paper."""
    rows = []
    for name, found in pages.items():
        by = Counter(each.verdict for each in found)
        rows.append(
            [f"[{TITLES[name]}]({name}.md)", *(str(by[verdict]) for verdict in VERDICTS), str(len(found))]
        )
    every = Counter(each.verdict for found in pages.values() for each in found)
    rows.append(["all", *(str(every[verdict]) for verdict in VERDICTS), str(sum(every.values()))])
    return markdown(["paper", *VERDICTS, "claims"], rows)


def write(name: str, out: Path, rows: Rows) -> None:
    """Write one page, or the overview."""
    if name == INDEX:
        pages = {each: decided(each, rows) for each in TITLES}
        every = [found for page in pages.values() for found in page]
        write_page(out / "index.md", {"tally": tally(every), "counts": counts(pages)}, {})
        return
    found = decided(name, rows)
    pictures, missing = pictures_of(name, rows)
    write_page(out / f"{name}.md", {"answer": answer(found), "claims": table(found), **missing}, pictures)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*TITLES, INDEX, []], help="all by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "papers")
    args = parser.parse_args(argv)
    rows = Rows(args.results)
    for name in args.names or [*TITLES, INDEX]:
        write(name, args.out, rows)


if __name__ == "__main__":
    main()
