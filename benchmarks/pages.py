"""What the scripts that write study pages share: Markdown tables, numbers as text, small figures, blocks.

A page keeps its prose; what stands between <!-- begin NAME --> and <!-- end NAME --> is replaced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fedmerge.errors import FedMergeError
from fedmerge.experiment.formatting import listing
from fedmerge.reports.figures import style
from fedmerge.reports.figures.panels import signed
from fedmerge.workflows.bench.study import Study

DPI, DIGITS = 110, ".4g"
CSV_ENDS = ["seed", "site", "stream", "shift", "severity"]
BOUNDS = ["difference", "difference_low", "difference_high"]

Picture = tuple[Figure, style.Caption]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; the first ``words`` columns stand left, the others right."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def three(value: float, low: float, high: float) -> str:
    """A score with its interval."""
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low == low else "")


def points(row: Mapping[str, Any]) -> str:
    """A paired difference in points, with its interval where there is one."""
    value, low, high = (signed(row[name], 2) for name in BOUNDS)
    return value if math.isnan(row["difference_low"]) else f"{value} ({low} to {high})"


def marked(row: Mapping[str, Any]) -> str:
    """Return ``points``, bold where the interval holds no zero."""
    return f"**{points(row)}**" if row["difference_low"] > 0 or row["difference_high"] < 0 else points(row)


def render(made: Figure) -> bytes:
    """A small PNG; the same figure gives the same bytes."""
    return style.render(made, "png", DPI)


def save_figures(pictures: Mapping[str, Picture], folder: Path) -> dict[str, str]:
    """Write each figure as PNG into the folder beside the page; returns the blocks that show them."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {}
    for name, (made, caption) in pictures.items():
        (folder / f"{name}.png").write_bytes(render(made))
        blocks[f"figure-{name}"] = f"![{re.sub(r'[][]', '', caption.title)}]({folder.name}/{name}.png)"
    return blocks


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between each pair of markers. Raises FedMergeError unless all names have both."""
    marks = re.findall(r"<!-- begin (\S+) -->.*?<!-- end \1 -->", page, re.DOTALL)
    for name in [*blocks, *marks]:
        if name not in blocks or marks.count(name) != 1:
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


def kept(page: str) -> dict[str, str]:
    """What stands between each pair of markers now."""
    return dict(re.findall(r"<!-- begin (\S+) -->\n(.*?)\n?<!-- end \1 -->", page, re.DOTALL))


def write_page(path: Path, blocks: Mapping[str, str], pictures: Mapping[str, Picture]) -> None:
    """Fill a page, write its figures into the folder of its name. Raises FedMergeError as ``fill`` does."""
    drawn = save_figures(pictures, path.with_suffix(""))
    path.write_text(fill(path.read_text(encoding="utf-8"), {**blocks, **drawn}), encoding="utf-8")


def as_saved(study: Study, scores: Sequence[str]) -> Study:
    """The study with its scores in the four digits of its CSV, so that a page says what the CSV says."""
    table = study.table.copy()
    for name in scores:
        table[name] = [float(f"{score:{DIGITS}}") for score in table[name].astype(float)]
    return replace(study, table=table)


def save_scores(study: Study, scores: Sequence[str], folder: Path) -> None:
    """Write NAME.csv: a finished row a line; a column that has one value throughout is left out."""
    names = list(dict.fromkeys([*study.config.axes, *CSV_ENDS, "method"]))
    table = study.done[[*names, *scores]]
    same = [name for name in names if name != "seed" and table[name].nunique() == 1]
    folder.mkdir(parents=True, exist_ok=True)
    csv = folder / f"{study.config.name}.csv"
    table.drop(columns=same).to_csv(csv, index=False, float_format=f"%{DIGITS}", lineterminator="\n")


def provenance(studies: Iterable[Study]) -> str:
    """What each study was made of."""
    rows = []
    for study in studies:
        known, versions = study.provenance, study.provenance["versions"]
        torch = listing(sorted({each["torch"] for each in versions}))
        numbers = [str(known[name]) for name in ("jobs", "rows", "failed")]
        rows.append([f"`{study.config.name}`", *numbers, listing(known["devices"]), torch])
    return markdown(["study", "jobs", "rows", "failed rows", "device", "PyTorch"], rows)
