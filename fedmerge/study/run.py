"""``run``: one experiment from its configuration to its result on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.federation import go_to
from fedmerge.files import write_text
from fedmerge.study.config import Experiment, read_experiment
from fedmerge.study.experiment import run_seed
from fedmerge.study.federation_words import federation_in_words
from fedmerge.study.folders import new_folder
from fedmerge.study.machine import describe, pick_device, reproducible
from fedmerge.study.preflight import check
from fedmerge.study.record import Progress, Record
from fedmerge.study.report import write_report
from fedmerge.study.results import COLUMNS, Result

if TYPE_CHECKING:
    from fedmerge.federation import Where


def run(
    config: str | Path | dict[str, Any] | Experiment,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    backend: Where = None,
    progress: Progress | None = None,
) -> Result:
    """Run an experiment: hospitals train, a server fuses, an unseen hospital adapts.

    config: a YAML file, the name of a shipped configuration, a mapping, or an ``Experiment``.
    changes: overrides such as ``"training.rounds=10"``. out: the run's folder, new or empty; by default
    the next free ``runs/NAME-001``. seed: run this seed alone. device: ``auto``, ``cpu``, ``cuda``.
    backend: where the hospitals work, which changes no number: ``local`` (this process), ``ray``, or a
    ``fm.Backend`` or its fields.
    progress: called with (stage, done, total).

    Returns the ``Result``; its tables, models and report lie in ``result.folder``. Raises FedMergeError for
    bad input, with nothing written where it can be seen before the start. What was measured before an
    error or an interrupt is saved.

    >>> result = run("configs/quickstart.yaml")            # doctest: +SKIP
    """
    experiment, spec = read_experiment(config, changes, seed, device)
    where = pick_device(experiment.device)
    resolved = _resolved(experiment, spec)
    first = build_cohort(spec, experiment.seeds[0])  # bad data is said before anything is written
    check(experiment, first, elsewhere=getattr(backend, "remote", False))
    config_hash = _hash({key: value for key, value in resolved.items() if key not in ("seeds", "device")})
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    with go_to(backend) as (place, threads), reproducible(experiment.threads or threads):
        folder = new_folder(experiment.name, out)
        write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        machine = describe(where)
        common = {
            "experiment": experiment.name,
            "cohort": spec.name,
            "model": experiment.model.name,
            "device": machine["device"],
            "versions": json.dumps(machine["versions"]),
            "config_hash": config_hash,
        }
        record = Record(common, progress)
        provenance = (
            machine
            | rules(experiment)
            | {
                "config_hash": config_hash,
                "started": started,
                "command": f"fedmerge run {folder / 'config.yaml'}",
            }
        )
        try:
            for each in experiment.seeds:
                cohort = first if each == experiment.seeds[0] else build_cohort(spec, each)
                run_seed(experiment, cohort, each, folder / f"seed-{each}", record, where, place)
        except BaseException:
            _result(experiment, first, record, provenance, folder).save()
            raise
    provenance["seconds"] = round(time.perf_counter() - began, 1)
    result = _result(experiment, first, record, provenance, folder)
    result.save()
    write_report(result)
    return result


def rules(experiment: Experiment) -> dict[str, str]:
    """The rules behind the numbers, in words, as the report prints them."""
    return {
        "selection": f"fusion is selected by validation {experiment.selection.replace('_', ' ')} at the "
        "training hospitals; the last epoch's weights are used; no choice looks at the unseen hospital",
        "batch_norm": {
            "mixture": "running statistics are merged as moments of the mixture",
            "average": "running means and variances are averaged",
        }[experiment.batch_norm],
        "federation": federation_in_words(experiment),
        "auroc": "macro mean of one-vs-rest AUROC over the classes with both a positive and a negative image",
        "ece": "expected calibration error of the top class, 15 equal-width bins",
    }


def _resolved(experiment: Experiment, spec: CohortSpec) -> dict[str, Any]:
    data = experiment.model_dump(mode="json", exclude={"cohort"})
    return {"name": data.pop("name"), "cohort": spec.model_dump(mode="json", exclude_none=True)} | data


def _hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _result(
    experiment: Experiment, cohort: Cohort, record: Record, provenance: dict[str, Any], folder: Path
) -> Result:
    return Result(
        experiment=experiment,
        cohort=cohort,
        provenance=provenance,
        folder=folder,
        table=record.frame("results", COLUMNS),
        history=record.frame("history", ["seed", "federation", "round", "phase", "site"]),
        coefficients=record.frame(
            "coefficients", ["seed", "site", "method", "stream", "batch", "source", "encoder", "head"]
        ),
        decisions=record.frame("decisions", ["seed", "site", "method", "model"]),
        failures=record.frame(
            "failures", ["seed", "where", "site", "reason", "attempt", "then", "kind", "injected"]
        ),
        reliability=record.frame("reliability", ["seed", "site", "method", "kind", "stream", "bin"]),
    )
