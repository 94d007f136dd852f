"""The command that answers a SQL question about all results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedmerge.cli.app import Json, app, err, out, print_json, say
from fedmerge.errors import FedMergeError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

EXAMPLE = (
    'For example: fedmerge results "SELECT method, avg(accuracy) AS accuracy, count(*) AS n FROM results '
    'GROUP BY method ORDER BY accuracy DESC"'
)


@app.command(epilog=EXAMPLE)
def results(
    query: Annotated[str, typer.Argument(help="SQL (DuckDB) on the table 'results'.")],
    runs: Annotated[
        Path, typer.Option("--runs", help="A folder of runs and studies, one of them, or a parquet file.")
    ] = Path("runs"),
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the answer to a .csv or .parquet file instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a SQL question (DuckDB) about the table results: the rows of all runs and studies."""
    from fedmerge.experiment.folder.query import query as ask
    from fedmerge.experiment.folder.results import write_table

    if file is not None and file.suffix not in (".csv", ".parquet"):
        raise FedMergeError(f"'{file}' has no known format: end its name in .csv or .parquet.")
    frame = ask(query, runs, tell=lambda sentence: say(err, f"note: {sentence}"))
    if file is not None:
        try:
            write_table(file, frame)
        except ValueError as error:
            raise FedMergeError(f"'{file}' cannot be written ({error}): choose another format.") from None
    if as_json:
        print_json(json.loads(frame.to_json(orient="records", date_format="iso")))
    elif file is not None:
        say(out, f"rows: {len(frame)}, written to {file}")
    else:
        table = _table(frame)
        wide = out.measure(table, options=out.options.update(width=10_000)).maximum
        # as wide as it is, on any terminal: a cut cell would be a wrong answer
        Console(file=out.file, width=max(out.width, wide)).print(table)


def _table(frame: pd.DataFrame) -> Table:
    """Make a table of every row; numbers are aligned right."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    columns = []
    for name in frame:
        number = is_numeric_dtype(frame[name]) and not is_bool_dtype(frame[name])
        table.add_column(Text(str(name)), justify="right" if number else "left", no_wrap=True)
        decimals = _decimals(frame[name]) if number else 0
        columns.append([Text(_text(value, decimals)) for value in frame[name]])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _decimals(numbers: pd.Series) -> int:
    """Return the decimals for a column: none for whole numbers, 4 below 10, fewer for larger numbers."""
    known = numbers.dropna().abs()
    if (known % 1 == 0).all():
        return 0
    return 4 if known.max() < 10 else 2 if known.max() < 1000 else 1


def _text(value: Any, decimals: int) -> str:
    """Return a value as text: a dash for NULL, two digits where the decimals would round it away."""
    import pandas as pd

    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 10**-decimals else f"{value:.{decimals}f}"
    return str(value)
