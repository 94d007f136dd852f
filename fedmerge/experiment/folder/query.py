"""SQL over the rows of many runs and studies at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.configuration.united import sentence_of, unite
from fedmerge.experiment.folder.state import partial_rows
from fedmerge.extras import extra
from fedmerge.schema.validation import is_folder, is_there
from fedmerge.storage.made_list import MADE
from fedmerge.storage.manifest import warnings as doubts_of
from fedmerge.storage.own_files import MANIFEST

if TYPE_CHECKING:
    import duckdb

RESULTS = "results.parquet"
QUESTIONS = ("SELECT", "EXPLAIN", "MULTI")
"""Kinds of statement that only ask; DuckDB calls a PIVOT ``MULTI``."""


def query(sql: str, folder: str | Path = "runs", tell: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Answer one SQL question (DuckDB's dialect) about the table ``results``.

    The table holds the rows of every results.parquet in the folder and its subfolders, or of one parquet
    file; columns are united by name and type (``unite``), NULL where a file lacks one. ``folder`` is an extra
    column: where the rows lie, relative to the given folder ("." for itself), unless the file has one
    already. The parts of a study in its ``jobs`` folder are left out, for the study's own file has them.
    A file that cannot be read is left out, and ``tell`` is called with a sentence (without it: a warning). A
    file that is not as its run wrote it is kept, with a sentence, too.

    The rows are copied into memory, then DuckDB's way to files and network is shut: a question can neither
    read nor write another file. Raises FedMergeError where DuckDB is not installed, if no results can be
    read, if the question is not understood, and for several questions or a statement that is no question.
    """
    with extra("results", "a question about results"):
        import duckdb
    root = Path(folder)
    files = results_files(root)
    # a folder for temporary files would be one in the working directory
    with duckdb.connect(config={"temp_directory": ""}) as connection:
        left_out = unite(connection, files, root.resolve())
        for sentence in (*left_out, *partial_rows(root), *_doubts(files)):
            (tell or warnings.warn)(sentence)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            _check_one(connection.extract_statements(sql))
            return connection.execute(sql).df()
        except duckdb.Error as error:
            raise FedMergeError(
                f"the query is not understood: {sentence_of(error)}. "
                f"The table results has the columns {', '.join(_columns(connection))}."
            ) from None


def _doubts(files: list[Path]) -> list[str]:
    """Return a sentence for each file that is not as a run or a study wrote it."""
    found = []
    for path in files:
        if any((path.parent / name).exists() for name in (MANIFEST, MADE, "run.json", "study.yaml")):
            found += doubts_of(path.parent, [path.name])
    return found


def results_files(root: Path) -> list[Path]:
    """Find the result files at or beneath a path, sorted, without jobs'. Raises FedMergeError if none."""
    if is_there(root) and root.is_file():
        return [root.resolve()]
    if not is_folder(root):
        raise FedMergeError(f"there is no folder '{short(root)}': name the folder of your runs or studies.")
    files = sorted(path.resolve() for path in root.rglob(RESULTS) if not _of_a_job(path, root))
    if not files:
        raise FedMergeError(f"there are no results in '{root}': no {RESULTS} lies in it or its subfolders.")
    return files


def _of_a_job(path: Path, root: Path) -> bool:
    """Whether a file lies beneath the ``jobs`` folder of a study that itself lies at or beneath ``root``."""
    above = path.relative_to(root).parents
    return any((root / folder.parent / "study.yaml").is_file() for folder in above if folder.name == "jobs")


def _check_one(statements: list[duckdb.Statement]) -> None:
    if not statements:
        raise FedMergeError("the query asks nothing: write, for example, SELECT * FROM results.")
    if len(statements) > 1:
        raise FedMergeError(
            f"these are {len(statements)} queries, and only one is answered: ask one at a time, or unite "
            "them with UNION ALL."
        )
    kind = statements[0].type.name
    if kind not in QUESTIONS:
        raise FedMergeError(f"the query is no question ({kind}): results are only read. Write a SELECT.")


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute("SELECT name FROM pragma_table_info('results')").fetchall()
    return [str(name) for (name,) in rows]
