"""A table of images, CSV or parquet: a row an image, with its file, class or findings, split and patient."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedmerge.data.files.one import Item
from fedmerge.data.reading import TableOptions
from fedmerge.data.sources.listing import SPLIT_NAMES
from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.storage.outside import check_table

MOST_NAMED = 5
LARGEST = 2**30
YES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
SLICE = "slice"
LONGEST_NAME = 255
"""Bytes of a file's or a folder's name."""
ODD = "odd"
NO_TEXT = (bytes, bytearray, list, tuple, dict, set, np.ndarray)
"""What a parquet file may hold, and no class, split or path is: as text it would be a class of its own."""
NOTHING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null", "nat")
"""What programs write where there is no value, in any case."""


def read_table(path: Path, options: TableOptions, site: str) -> tuple[list[Item], list[str]]:
    """Return the rows of a hospital as items, in their order, and the patients of the whole table.

    site: the hospital's name, which its rows hold where ``options.site`` names a column. Raises FedMergeError
    with every kind of fault: columns that are not there, rows without a file or class, findings other than 0
    and 1, unknown splits, and files listed twice.
    """
    if options.value is not None and options.site is None:
        raise FedMergeError(
            f"{path}: table has value: '{short(options.value)}', but no site: name the column."
        )
    table = _load(path)
    split = options.split or ("split" if "split" in table else None)
    patient = options.patient or ("patient" if "patient" in table else None)
    named = [options.path, *(options.findings or [options.label]), split, patient, options.site]
    for column in filter(None, named):
        if column not in table:
            raise FedMergeError(
                f"{path} has no column '{short(column)}'.{nearest(column, table.columns)} It has "
                f"{short(', '.join(table.columns))}: say under table: which column is what."
            )
        if (odd := table.attrs[ODD].get(column)) is not None:
            raise FedMergeError(f"{path}: column '{short(column)}' holds {odd}: write texts or numbers.")
    for column in filter(None, named[:-1]):
        table[column] = table[column].str.strip().map(_where_said)
    everybody = list(filter(None, table[patient])) if patient else []
    if options.site:
        table = _rows_of(table, path, options, site)
    root = (path.parent / options.root).expanduser() if options.root else path.parent
    faults: list[str] = []
    labels, splits, planes = (
        _labels(table, options, faults),
        _splits(table, split, faults),
        _planes(table, faults),
    )
    people = table[patient].tolist() if patient else [""] * len(table)
    nameless = table[options.path] == ""
    _note(faults, f"no file in column '{options.path}'", _where(table, nameless))
    impossible = ~table[options.path].map(_is_path)
    _note(faults, f"what no path can be in column '{options.path}'", _where(table, impossible))
    files = [_file(root, each) if _is_path(each) else root for each in table[options.path]]
    items = [
        Item(file, label, part, person, plane)
        for file, label, part, person, plane in zip(files, labels, splits, people, planes, strict=True)
    ]
    places = [f"{os.path.normpath(item.file)}\0{item.plane}" for item in items]
    doubled = pd.Series(places, index=table.index).duplicated()
    _note(faults, "a file that an earlier row has", _where(table, doubled))
    if faults:
        raise FedMergeError(*(f"{path}: {fault}" for fault in faults))
    return items, everybody


def files_of(path: Path, options: TableOptions) -> list[Path]:
    """Return the files that a table names, of every hospital, as far as they can be told."""
    table = _load(path)
    root = (path.parent / options.root).expanduser() if options.root else path.parent
    given: list[str] = list(table.get(options.path, []))
    texts = [each.strip() for each in given]
    return [_file(root, each) for each in texts if _where_said(each) and _is_path(each)]


def _is_path(text: str) -> bool:
    """Whether a file could have this name: one too long, or of an unknown user, cannot be looked for."""
    try:
        parts = Path(text).expanduser().parts
    except RuntimeError:
        return False
    return "\0" not in text and all(len(os.fsencode(part)) <= LONGEST_NAME for part in parts)


def _file(root: Path, text: str) -> Path:
    """Return the file that a table names; with slashes for backslashes where none has that name."""
    file = root / Path(text).expanduser()
    if "\\" in text and not file.exists():
        return root / text.replace("\\", "/")
    return file


def _where_said(text: str) -> str:
    return "" if text.casefold() in NOTHING else text


def columns_of(path: Path) -> pd.DataFrame:
    """Return a table as text, as ``read_table`` sees it."""
    return _load(path)


def _text_table(path: Path, mark: str) -> pd.DataFrame:
    """Read text whose first row names the columns; pandas would rename doubled names, and guess an index."""
    table = pd.read_csv(
        path,
        sep=mark,
        dtype=str,
        header=None,
        keep_default_na=False,
        encoding="utf-8-sig",
        skip_blank_lines=True,
    )
    lacking = table.isna().any(axis=1).to_numpy().nonzero()[0]
    if len(lacking):
        raise FedMergeError(
            f"{path}: {len(lacking)} rows have fewer fields than the first (row {int(lacking[0]) + 1}): "
            "correct them or take them out."
        )
    return table.iloc[1:].reset_index(drop=True).set_axis([*table.iloc[0]], axis=1)


def _load(path: Path) -> pd.DataFrame:
    """Read a table with every value as text, "" for none; ``attrs[ODD]``: columns of what is no text."""
    odd: dict[str, str] = {}
    try:
        if path.stat().st_size > LARGEST:
            raise FedMergeError(f"{path} has more than {LARGEST:,} bytes: no table of images has: divide it.")
        if path.suffix.lower() in (".parquet", ".pq"):
            check_table(path)
            table = pd.read_parquet(path)
            odd = _odd_columns(table)
            table = table.astype(object).where(table.notna(), "").map(_text)
        else:
            first = path.open(encoding="utf-8-sig").readline()
            mark = max(",;\t", key=first.count)
            table = _text_table(path, mark)
    except FedMergeError:
        raise
    except UnicodeDecodeError:
        raise FedMergeError(f"{path} is no text in UTF-8: save it so.") from None
    except Exception as error:  # pandas and pyarrow raise whatever they please
        raise FedMergeError(f"{path} cannot be read as a table ({short(error)}): correct it.") from None
    table.columns = [str(name).strip() for name in table.columns]
    table.attrs[ODD] = odd
    twice = sorted({str(name) for name in table.columns[table.columns.duplicated()]})
    if twice:
        raise FedMergeError(f"{path} has two columns named '{twice[0]}': rename one.")
    if not len(table):
        raise FedMergeError(f"{path} has no rows: a row an image is needed.")
    return table


def _odd_columns(table: pd.DataFrame) -> dict[str, str]:
    """Return the columns with values that are no text, number or date, and what the first of these is."""
    found = {}
    for name, column in table.items():
        wrong = next((value for value in column if isinstance(value, NO_TEXT)), None)
        if wrong is not None:
            found[str(name).strip()] = "bytes" if isinstance(wrong, bytes | bytearray) else "lists"
    return found


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _rows_of(table: pd.DataFrame, path: Path, options: TableOptions, site: str) -> pd.DataFrame:
    assert options.site is not None
    wanted = options.value or site
    values = table[options.site].str.strip()
    chosen = table[values == wanted]
    if chosen.empty:
        known = sorted(set(values))
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        raise FedMergeError(
            f"{path}: no row has '{short(wanted)}' in column '{options.site}'.{nearest(wanted, known)} "
            f"There are "
            f"{', '.join(map(short, known[:MOST_NAMED]))}{more}: set table: {{value: …}} for the hospital."
        )
    return chosen


def _labels(table: pd.DataFrame, options: TableOptions, faults: list[str]) -> Sequence[str | tuple[int, ...]]:
    if options.findings is None:
        labels = [unicodedata.normalize("NFC", each) for each in table[options.label]]
        _note(faults, f"no class in column '{options.label}'", _where(table, table[options.label] == ""))
        if all(re.fullmatch(r"\d{1,9}(\.0+)?", each) for each in set(labels)):
            return [each.partition(".")[0] for each in labels]
        faults += _alike(sorted(set(labels)), options.label)
        return labels
    numbers = []
    for column in options.findings:
        found = table[column].str.strip().str.lower().map(YES)
        wrong = found.isna()
        some = short(table[column][wrong].iloc[0]) if wrong.any() else ""
        _note(
            faults,
            f"something other than 0 and 1 in column '{column}' (such as '{some}')",
            _where(table, wrong),
        )
        numbers.append(found.fillna(0).astype(int).tolist())
    return list(zip(*numbers, strict=True))


def _alike(names: Sequence[str], column: str) -> list[str]:
    """Say which classes differ in the case of letters alone."""
    known: dict[str, str] = {}
    pairs = [(known.setdefault(name.casefold(), name), name) for name in names]
    return [
        f"column '{column}' has the classes '{short(first)}' and '{short(other)}', which differ in case "
        "alone: write one of them."
        for first, other in pairs
        if first != other
    ]


def _splits(table: pd.DataFrame, column: str | None, faults: list[str]) -> list[str]:
    if column is None:
        return [""] * len(table)
    given = table[column].str.strip().str.casefold()
    found = given.map(SPLIT_NAMES)
    wrong = found.isna()
    if wrong.any():
        one = short(table[column][wrong].iloc[0])
        _note(
            faults,
            f"'{one}' or the like in column '{column}', and not train, val or test",
            _where(table, wrong),
        )
    return [str(each) for each in found]


def _planes(table: pd.DataFrame, faults: list[str]) -> list[int | None]:
    if SLICE not in table:
        return [None] * len(table)
    given = table[SLICE].str.strip()
    wrong = ~given.map(lambda text: text == "" or re.fullmatch(r"\d{1,6}", text) is not None)
    _note(faults, f"no whole number from 0 in column '{SLICE}'", _where(table, wrong))
    return [int(text) if text.isdigit() else None for text in given]


def _where(table: pd.DataFrame, rows: pd.Series) -> list[int]:
    """Return the numbers of the chosen rows, as an editor counts them: the heading is row 1."""
    return [int(row) + 2 for row in table.index[rows.to_numpy(dtype=bool)]]


def _note(faults: list[str], what: str, rows: Sequence[int]) -> None:
    if rows:
        shown = ", ".join(map(str, rows[:MOST_NAMED])) + (" …" if len(rows) > MOST_NAMED else "")
        faults.append(f"{len(rows)} rows have {what} (row {shown}): correct them or take them out.")
