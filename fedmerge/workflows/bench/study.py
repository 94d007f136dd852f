"""The results of a study: its configuration, one table, and its provenance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedmerge.engine.store import said
from fedmerge.errors import Faults, FedMergeError
from fedmerge.experiment.configuration.plugged import plug_in
from fedmerge.schema.validation import differences, load_yaml, validate
from fedmerge.storage.files import write_json, write_text
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.plan import StudyPlan
from fedmerge.workflows.bench.remarks import read_remarks
from fedmerge.workflows.bench.spending import read_spending


@dataclass(frozen=True)
class Study:
    """A study as far as it has come.

    table: one row per variant, seed, site, method, stream and scanner shift; a failed job is a row with
    ``status`` "failed" and its ``reason``. reliability: calibration bins of the clean rows. provenance: how
    many jobs there are, the command that repeats the study, versions and devices.
    """

    config: BenchConfig
    table: pd.DataFrame
    reliability: pd.DataFrame
    provenance: dict[str, Any]
    folder: Path

    @property
    def coefficients(self) -> pd.DataFrame:
        """The coefficients of test-time methods, a row per variant, seed, site, method, batch and source."""
        return self._traces("coefficients.parquet")

    @property
    def decisions(self) -> pd.DataFrame:
        """The decision logs of fusion methods, and of test-time methods that were tuned."""
        return self._traces("decisions.parquet")

    def _traces(self, name: str) -> pd.DataFrame:
        path = self.folder / name
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on the images (``data.checks``), in sentences that begin with the cohort."""
        return tuple(self.provenance.get("remarks", ()))

    @property
    def summary(self) -> dict[str, Any]:
        """The study's folder, jobs, rows, failed rows by reason, and the remarks on its images."""
        failed = self.table.loc[self.table["status"] == "failed", "reason"].value_counts()
        return {
            "folder": str(self.folder),
            "jobs": self.provenance["jobs"],
            "rows": len(self.table),
            "failed": {str(reason): int(count) for reason, count in failed.items()},
            "remarks": list(self.remarks),
        }

    @property
    def answer(self) -> str:
        """The result in a sentence or two, as the report says it."""
        from fedmerge.reports.leaderboards import leaderboards  # figures are slow to import
        from fedmerge.reports.study_summary import study_answer

        return study_answer(leaderboards(self))

    @property
    def done(self) -> pd.DataFrame:
        """The rows of jobs that did not fail."""
        return self.table[self.table["status"] == "done"]


def open_study(folder: str | Path) -> Study:
    """Read a study's folder. Raises FedMergeError where it holds no study, or one without rows yet."""
    folder = Path(folder)
    if not (folder / "study.yaml").is_file():
        raise FedMergeError(f"'{folder}' holds no study: there is no study.yaml in it.")
    if not (folder / "results.parquet").is_file():
        raise FedMergeError(
            f"the study in '{folder}' has no results yet: give `fedmerge bench {folder / 'study.yaml'}` "
            f"with --out {folder}."
        )
    path = folder / "study.yaml"
    data, faults = load_yaml(path), Faults()
    plug_in(data, folder, (), faults)
    faults.say()
    config = validate(BenchConfig, data, str(path))
    table = pd.read_parquet(folder / "results.parquet")
    reliability = pd.read_parquet(folder / "reliability.parquet")
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    done = table[table["status"] == "done"]
    provenance = {
        "jobs": len(plan["jobs"]),
        "rows": len(table),
        "failed": int((table["status"] == "failed").sum()),
        "devices": sorted(done["device"].dropna().unique()),
        "versions": [json.loads(text) for text in sorted(done["versions"].dropna().unique())],
        "plan": plan["hash"],
        "command": f"fedmerge bench {path} --out {folder}",
    }
    if said_of_images := read_remarks(folder):
        provenance["remarks"] = said_of_images
    if spent := read_spending(folder):
        provenance["privacy"] = spent
    return Study(config, table, reliability, provenance, folder)


def adopt(folder: Path, config: BenchConfig, plan: StudyPlan, extend: bool) -> None:
    """Write the study into its folder. Raises FedMergeError for another study's, unless ``extend``."""
    path = folder / "study.yaml"
    written = config.model_dump(mode="json")
    if path.is_file() and not extend:
        earlier, given = load_yaml(path), dict(written)
        for each in (earlier, given):
            each.pop("trackers", None)  # they decide nothing
        changed = list(differences(earlier, given))
        advice = "give --out another folder, or --extend to keep the finished jobs that are still needed."
        if changed:
            field, before, now = changed[0]
            more = f" ({len(changed) - 1} more differences)" if len(changed) > 1 else ""
            raise FedMergeError(
                f"the study in '{folder}' was begun with another configuration: '{field}' was {before!r} and "
                f"is {now!r}{more}. Change it back, {advice}"
            )
        known = folder / "plan.json"
        if known.is_file() and json.loads(known.read_text())["hash"] != _hash(plan):
            raise FedMergeError(
                f"the study in '{folder}' was begun with another cohort file, other images, another "
                f"plug-in or version of FedMerge: its jobs are no longer the same. Change that back, {advice}"
            )
    with said(folder):
        write_text(path, yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
        labels = [task.label for task in plan.tasks.values()]
        write_json(folder / "plan.json", {"hash": _hash(plan), "jobs": list(plan.tasks), "labels": labels})


def _hash(plan: StudyPlan) -> str:
    return hashlib.sha256("\n".join([*plan.tasks, *(str(e) for e in plan.entries)]).encode()).hexdigest()[:16]
