"""A cohort's file from what lies on the disk: folders, tables and DICOM files, as far as it can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedmerge.data.files.dicom import SUFFIXES, is_dicom
from fedmerge.data.sources.listing import SPLIT_NAMES
from fedmerge.data.sources.tables import columns_of
from fedmerge.errors import FedMergeError, nearest

LABELS = ("label", "class", "diagnosis", "finding", "target", "dx")
PATIENTS = ("patient", "patient_id", "patientid", "subject", "subject_id", "lesion_id")
SITES = ("site", "hospital", "clinic", "center", "centre", "institution", "dataset")
MOST_SITES = 100
TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}


def new_cohort(
    places: Mapping[str, Path], unseen: Sequence[str], size: int | None, columns: Mapping[str, str]
) -> dict[str, Any]:
    """Return a cohort as its file has it. places: folders and files by the hospital's name.

    A table with a column of hospitals gives one hospital for each of its values. unseen: names of those
    that do not train. columns: what the caller says of tables (``label: diagnosis``). Raises FedMergeError
    for a place that is none of the known kinds, a column that cannot be told, and an unknown name.
    """
    sites: list[dict[str, Any]] = []
    for name, place in places.items():
        if place.is_dir():
            sites.append({"name": name, "source": f"{'dicom' if _has_dicom(place) else 'folder'}:{place}"})
        elif place.suffix.lower() == ".npz":
            sites.append({"name": name, "source": f"npz:{place}"})
        elif place.suffix.lower() in TABLES:
            sites += _of_table(name, place, columns)
        else:
            raise FedMergeError(
                f"'{place}' is no folder, table (.csv, .parquet) or .npz file that is there: correct it."
            )
    names = [site["name"] for site in sites]
    for each in unseen:
        if each not in names:
            raise FedMergeError(
                f"there is no hospital '{each}'.{nearest(each, names)} There are {', '.join(names)}."
            )
    for site in sites:
        if site["name"] in unseen:
            site["unseen"] = True
    return ({"size": size} if size else {}) | {"sites": sites}


def _has_dicom(folder: Path) -> bool:
    """Whether the first files below a folder are DICOM files."""
    files = (
        each for each in sorted(folder.rglob("*"))[:1000] if each.is_file() and not each.name.startswith(".")
    )
    return any(
        each.suffix.lower() in SUFFIXES or is_dicom(each) for each, _ in zip(files, range(20), strict=False)
    )


def _of_table(name: str, path: Path, told: Mapping[str, str]) -> list[dict[str, Any]]:
    table = columns_of(path)
    seen = _columns(table, path, told)
    source = f"{TABLES[path.suffix.lower()]}:{path}"
    usual = {"path": "path", "label": "label", "split": "split", "patient": "patient"}
    options = {key: column for key, column in seen.items() if column != usual.get(key)}
    if "site" not in seen:
        return [{"name": name, "source": source} | ({"table": options} if options else {})]
    held = table[seen["site"]].str.strip()
    if (held == "").any():
        rows = [int(row) + 2 for row in table.index[held == ""]]
        raise FedMergeError(
            f"{path}: {len(rows)} rows have no hospital in column '{seen['site']}' (row {rows[0]} first): "
            "write one, or take them out."
        )
    values = sorted(set(held))
    names = _apart([_plain(value) for value in values])
    return [
        {"name": name, "source": source, "table": options | {"value": value}}
        for name, value in zip(names, values, strict=True)
    ]


def _columns(table: pd.DataFrame, path: Path, told: Mapping[str, str]) -> dict[str, str]:
    """Return which column is what, as far as it can be seen or was told."""
    seen: dict[str, str] = {}
    for column in table:
        first = str(table[column].iloc[0]).strip()
        if first and (path.parent / first).is_file():
            seen["path"] = str(column)
            break
    by_name = {str(column).casefold(): str(column) for column in table}
    for key, words in (("label", LABELS), ("patient", PATIENTS), ("site", SITES)):
        found = [by_name[word] for word in words if word in by_name]
        if found:
            seen[key] = found[0]
    for column in table:
        if set(table[column].str.strip().str.casefold()) <= set(SPLIT_NAMES):
            seen["split"] = str(column)
    for column in told.values():
        if column not in table:
            raise FedMergeError(
                f"{path} has no column '{column}'.{nearest(column, table.columns)} It has "
                f"{', '.join(table.columns)}."
            )
    seen |= told
    if "site" in seen and table[seen["site"]].nunique() > MOST_SITES:
        del seen["site"]
    for key, option in (("path", "--path"), ("label", "--label")):
        if key not in seen:
            raise FedMergeError(
                f"{path}: which of its columns {', '.join(table.columns)} holds the "
                f"{'files' if key == 'path' else 'classes'} "
                f"cannot be seen: say it with {option} COLUMN."
            )
    return seen


def _apart(names: Sequence[str]) -> list[str]:
    """Return names with a number after each that an earlier one is equal to."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _plain(value: str) -> str:
    name = "".join(
        each if each.isascii() and (each.isalnum() or each in "-_.") else "-" for each in value.lower()
    )
    return name.strip("-._") or "site"
