"""A report written again from a folder, whichever kind of folder it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedmerge.errors import FedMergeError
from fedmerge.study.report import write_report
from fedmerge.study.results import open_result

Kind = Literal["run", "study"]


def write_again(path: Path, target: Path | None = None) -> tuple[Kind, Path]:
    """Write the report of the run or study at ``path`` (its folder, or a file in it).

    target: the file to write, by default report.html in the folder. Returns what it was and where the report
    is; no other file is touched. Raises FedMergeError where ``path`` is neither, or ``target`` is not a file.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FedMergeError(f"there is no '{path}': give the folder of a run or a study, or a file in it.")
    if target is not None and target.is_dir():
        raise FedMergeError(f"'{target}' is a folder: give --out a file, such as '{target / 'report.html'}'.")
    if (folder / "study.yaml").is_file():
        from fedmerge.study.bench.study import open_study
        from fedmerge.study.reports import write_study_report

        return "study", write_study_report(open_study(folder), target)
    if (folder / "config.yaml").is_file() and (folder / "results.parquet").is_file():
        return "run", write_report(open_result(folder), target)
    raise FedMergeError(
        f"'{folder}' is neither a run (config.yaml and results.parquet) nor a study (study.yaml and "
        "results.parquet): give the folder that 'fedmerge run' or 'fedmerge bench' wrote."
    )
