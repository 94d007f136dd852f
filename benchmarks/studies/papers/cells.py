"""Cells of a study: each is computed once, kept as a file, and read again when the study is resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedmerge.storage.files import write_text

KEPT = "%.5g"
"""The digits of a number in a CSV."""


class Row(NamedTuple):
    """One number. part: of which question. setting: data and network. case: method, layer, model or run.

    x, y: a number that the case has (depth, number of models, factor, coordinates); NaN where there is none.
    """

    part: str
    setting: str
    seed: int
    case: str
    metric: str
    value: float
    x: float = float("nan")
    y: float = float("nan")


@dataclass(frozen=True)
class Cell:
    """What is computed at once: the rows of one setting and seed."""

    name: str
    make: Callable[[], Iterable[Row]]


def computed(
    cells: Iterable[Cell], folder: Path, report: Callable[[str], None] = print, only_kept: bool = False
) -> Iterator[Row]:
    """Yield the rows of all cells; those that lie in the folder are read, the others made and kept there.

    only_kept: what is not there is left out, and named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        path = folder / f"{cell.name}.json"
        if only_kept and not path.is_file():
            report(f"{cell.name}: not there")
            continue
        if not path.is_file():
            began = time.process_time()
            rows = [row._asdict() for row in cell.make()]
            write_text(path, json.dumps(rows))
            report(f"{cell.name}: {len(rows)} rows, {time.process_time() - began:.0f} CPU seconds")
        yield from (Row(**row) for row in json.loads(path.read_bytes()))


def save(rows: Iterable[Row], path: Path) -> None:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows), columns=list(Row._fields)).to_csv(
        path, index=False, float_format=KEPT, lineterminator="\n"
    )


def add(rows: Iterable[Row], path: Path) -> None:
    """Put rows into a CSV, in the place of those of the same part, setting, seed, case, metric, x and y."""
    new = pd.DataFrame(list(rows), columns=list(Row._fields))
    if new.empty:
        return
    whole = pd.concat([read(path), new]) if path.is_file() else new
    again = whole.duplicated([name for name in Row._fields if name != "value"], keep="last")
    gone = again & whole["part"].isin(new["part"])
    save((Row(*each) for each in whole[~gone].itertuples(index=False)), path)


def read(path: Path) -> pd.DataFrame:
    """Read the rows of a study."""
    empty = {name: [""] for name in ("value", "x", "y")}
    return pd.read_csv(path, keep_default_na=False, na_values=empty, dtype={"part": str, "case": str})


def empty() -> pd.DataFrame:
    """Return the rows of a study that was not computed: none."""
    numbers = {"seed": int, "value": float, "x": float, "y": float}
    return pd.DataFrame(columns=list(Row._fields)).astype(numbers)
