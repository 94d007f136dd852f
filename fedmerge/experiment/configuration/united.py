"""Unite many results files in one DuckDB table: columns are matched by name, each has one type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.errors import FedMergeError, short

if TYPE_CHECKING:
    import duckdb

WHOLE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
NUMBER = re.compile(rf"{WHOLE.pattern}|FLOAT|DOUBLE|DECIMAL.*")
Types = dict[str, str]


def unite(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], root: Path) -> Iterator[str]:
    """Make the table ``results`` of all files; yield a sentence for each file that is left out.

    A column has the type that most files give it, of numbers the widest; an empty column does not count.
    Text in a column of numbers is read as numbers; a file where that fails is left out, as is one that is
    damaged. Raises FedMergeError where none is left.
    """
    import duckdb

    found: dict[int, Types] = {}
    wrong: list[tuple[Path, str]] = []
    for i, path in enumerate(files):
        try:
            found[i] = _load(connection, f"file_{i}", path)
        except duckdb.Error as error:
            wrong.append((path, sentence_of(error)))
    columns = {name: None for types in found.values() for name in types} | {"folder": None}
    settled = {
        name: _settled([types[name] for types in found.values() if types.get(name)]) for name in columns
    }
    fields = ", ".join(f"{_quoted(name)} {kind}" for name, kind in settled.items())
    connection.execute(f"CREATE TABLE results ({fields})")
    for i, types in found.items():
        try:
            _insert(connection, f"file_{i}", types, settled, _folder(files[i], root))
        except duckdb.Error as error:
            wrong.append((files[i], sentence_of(error)))
        connection.execute(f"DROP TABLE file_{i}")
    if len(wrong) == len(files):
        raise FedMergeError(
            *(f"'{path}' cannot be read ({short(why)}): repeat that run." for path, why in wrong)
        )
    for path, why in wrong:
        yield (
            f"'{path}' is left out, because it cannot be read with the others ({short(why)}): repeat "
            "that run, or move its folder away."
        )


def _load(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> Types:
    """Read a file into a table of its own; return its columns' types, "" for an empty column."""
    name = re.sub(r"([\[*?])", r"[\1]", str(path))  # a name, not a pattern
    connection.execute(
        f"CREATE TABLE {table} AS SELECT * FROM read_parquet(?, hive_partitioning = false)", [name]
    )
    described = connection.execute(f"DESCRIBE {table}").fetchall()
    counted = connection.execute(f"SELECT count(COLUMNS(*)) FROM {table}").fetchone() or ()
    return {str(row[0]): str(row[1]) if count else "" for row, count in zip(described, counted, strict=True)}


def _settled(kinds: Sequence[str]) -> str:
    """Choose one type for a column: that of most files; numbers win a tie, as text can be read as numbers."""
    if not kinds:
        return "VARCHAR"
    if len(set(kinds)) == 1:
        return kinds[0]
    numbers = [kind for kind in kinds if NUMBER.fullmatch(kind)]
    if 2 * len(numbers) >= len(kinds):
        return "BIGINT" if all(WHOLE.fullmatch(kind) for kind in numbers) else "DOUBLE"
    (most, often), *_ = Counter(kinds).most_common(1)
    return most if 2 * often > len(kinds) else "VARCHAR"


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, types: Types, settled: Mapping[str, str], folder: str
) -> None:
    columns = [
        f"CAST({_quoted(name)} AS {settled[name]}) AS {_quoted(name)}" for name in types if name != "folder"
    ]
    own = "folder, ?" if "folder" in types else "?"
    chosen = ", ".join([*columns, f"coalesce({own}) AS folder"])
    connection.execute(f"INSERT INTO results BY NAME SELECT {chosen} FROM {table}", [folder])


def _folder(path: Path, root: Path) -> str:
    return "." if path == root else path.parent.relative_to(root).as_posix()


def sentence_of(error: Exception) -> str:
    """Return DuckDB's first line without its kind of error and full stop."""
    return re.sub(r"^.*?Error: ", "", str(error).splitlines()[0]).rstrip(".! ") or str(error)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
