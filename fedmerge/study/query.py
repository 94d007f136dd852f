"""SQL over the rows of many runs and studies at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fedmerge.errors import FedMergeError

if TYPE_CHECKING:
    import duckdb

RESULTS = "results.parquet"


def query(sql: str, folder: str | Path = "runs") -> pd.DataFrame:
    """Ask a SQL question (DuckDB's dialect) of the table ``results``.

    The table holds the rows of every results.parquet in the folder and its subfolders, or of one parquet
    file; columns are united by name, NULL where a file lacks one. ``folder`` is an extra column: where the
    rows lie, relative to the given folder ("." for itself), unless the file has one already. The parts of a
    study in its ``jobs`` folder are left out, for the study's own file has them.

    The rows are copied into memory, then DuckDB's way to files and network is shut: a question can neither
    read nor write another file. Raises FedMergeError if there are no results, a file is damaged, or the
    question is not understood.
    """
    import duckdb

    root = Path(folder)
    files = results_files(root)
    # a folder for temporary files would be one in the working directory
    with duckdb.connect(config={"temp_directory": ""}) as connection:
        _load(connection, files, root.resolve())
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            answer = connection.execute(sql)
            described = answer is not None and answer.description is not None
        except duckdb.Error as error:
            raise FedMergeError(
                f"the query is not understood: {_sentence(error)}. "
                f"The table results has the columns {', '.join(_columns(connection))}."
            ) from None
        if not described:
            raise FedMergeError("the query asks nothing: write, for example, SELECT * FROM results.")
        return answer.df()


def results_files(root: Path) -> list[Path]:
    """The result files at or beneath a path, sorted, without those of jobs. Raises FedMergeError if none."""
    if root.is_file():
        return [root.resolve()]
    if not root.is_dir():
        raise FedMergeError(f"there is no folder '{root}': name the folder of your runs or studies.")
    inside = (path.relative_to(root) for path in root.rglob(RESULTS))
    files = sorted(root.resolve() / path for path in inside if "jobs" not in path.parts)
    if not files:
        raise FedMergeError(f"there are no results in '{root}': no {RESULTS} lies in it or its subfolders.")
    return files


def _load(connection: duckdb.DuckDBPyConnection, files: list[Path], root: Path) -> None:
    import duckdb

    escaped = [re.sub(r"([\[*?])", r"[\1]", str(path)) for path in files]  # names, not patterns
    try:
        connection.execute(
            "CREATE TABLE results AS SELECT * FROM "
            "read_parquet(?, union_by_name = true, filename = '_file', hive_partitioning = false)",
            [escaped],
        )
    except duckdb.Error as error:
        raise FedMergeError(
            f"the results cannot be read: {_sentence(error)}. Repeat that run, or move its folder away."
        ) from None
    folders = ["." if path == root else path.parent.relative_to(root).as_posix() for path in files]
    connection.execute("ALTER TABLE results ADD COLUMN IF NOT EXISTS folder VARCHAR")
    connection.execute(
        "UPDATE results SET folder = coalesce(results.folder, f.folder) "
        "FROM (SELECT unnest(?) AS path, unnest(?) AS folder) AS f WHERE _file = f.path",
        [[str(path) for path in files], folders],
    )
    connection.execute("ALTER TABLE results DROP COLUMN _file")


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute("SELECT name FROM pragma_table_info('results')").fetchall()
    return [str(name) for (name,) in rows]


def _sentence(error: Exception) -> str:
    """DuckDB's first line without its kind of error and full stop."""
    return str(error).splitlines()[0].partition("Error: ")[2].rstrip(".! ") or str(error)
