"""Write a report again from the folder of a run or a study."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.folder.run_manifest import NAME, read_begun
from fedmerge.plugins import load_plugins, locate_plugins
from fedmerge.reports.run_report import write_report
from fedmerge.schema.validation import is_folder, is_there
from fedmerge.storage.manifest import visit, warnings

Kind = Literal["run", "study"]
RESULTS = "results.parquet"


def write_again(path: Path, target: Path | None = None, plugins: Sequence[str] = ()) -> tuple[Kind, Path]:
    """Write the report of the run or study at ``path`` (its folder, or a file in it).

    target: the file to write, by default report.html in the folder. Returns the kind and the report's path;
    no other file is touched. plugins: whose figures are in it, besides those of the run or study. Raises
    FedMergeError where ``path`` is neither, or ``target`` is not a file.
    """
    named = locate_plugins(plugins)
    load_plugins(named)
    folder = path if is_folder(path) else path.parent
    if not is_there(path):
        raise FedMergeError(
            f"there is no '{short(path)}': give the folder of a run or a study, or a file in it."
        )
    if target is not None and target.is_dir():
        raise FedMergeError(f"'{target}' is a folder: give --out a file, such as '{target / 'report.html'}'.")
    if (folder / "study.yaml").is_file():
        from fedmerge.reports import write_study_report
        from fedmerge.workflows.bench.study import open_study

        visit(folder)
        study = open_study(folder)
        said = _with_doubts(study.provenance, folder)
        return "study", write_study_report(replace(study, provenance=said), target, named)
    if (folder / "config.yaml").is_file() and any((folder / name).is_file() for name in (NAME, RESULTS)):
        visit(folder)
        result = open_result(folder)
        said = _with_doubts(result.provenance, folder)
        return "run", write_report(replace(result, provenance=said), target, named)
    raise FedMergeError(
        f"'{folder}' is neither a run (config.yaml and results.parquet) nor a study (study.yaml and "
        "results.parquet): give the folder that 'fedmerge run' or 'fedmerge bench' wrote."
    )


def doubts(path: Path) -> list[str]:
    """Return a sentence for each file behind a report that is not as the run or study wrote it."""
    return warnings(path if is_folder(path) else path.parent, below=False, but="report.html")


def _with_doubts(provenance: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the provenance with a remark for each file that was changed since."""
    found = doubts(folder)
    return provenance | ({"remarks": [*found, *provenance.get("remarks", [])]} if found else {})


def unfinished(path: Path) -> str | None:
    """Return a sentence on an unfinished run or study, with the command that resumes it; else None."""
    folder = path if is_folder(path) else path.parent
    if (folder / "study.yaml").is_file():
        from fedmerge.engine.store import states_in

        states = states_in(folder, json.loads((folder / "plan.json").read_text(encoding="utf-8"))["jobs"])
        left = sum(state == "missing" for state in states.values())
        command = f"fedmerge bench {shlex.quote(str(folder / 'study.yaml'))} --out {shlex.quote(str(folder))}"
        return f"{left} of {len(states)} jobs are not done: {command} does them." if left else None
    begun = read_begun(folder) if (folder / NAME).is_file() else None
    if begun is None or begun.finished:
        return None
    return (
        f"the run is not finished, and this is what there is so far: fedmerge run --resume "
        f"{shlex.quote(str(folder))} goes on with it."
    )
