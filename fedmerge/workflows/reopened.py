"""A finished run, opened again to tune an option of a test-time method on its models and hospitals."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedmerge.storage.own_files as own_files
from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.streams import StreamSpec
from fedmerge.errors import FedMergeError, short, unknown
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig, asked_method
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.folder.machine import pick_device, reproducible
from fedmerge.experiment.folder.reopen import read_saved
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import Setup, set_up
from fedmerge.experiment.stages.tune import EntryTuning
from fedmerge.schema.faults import without
from fedmerge.schema.validation import is_there
from fedmerge.testtime import TESTTIME


@dataclass(frozen=True)
class Wanted:
    """What is to be tuned on a run.

    target: for which unseen site, if there are several. method: a test-time method, or the label of one of
    the run's, whose other options are kept. option: as an entry's ``tune``: a name, or a mapping of
    ``option`` and ``values``, those to try; a temperature has defaults. stream: one of the run's streams by
    name instead of all, or ``iid``. seed: of the run's seeds, by default the first. device: by default the
    run's.
    """

    target: str | None = None
    method: str = "entropy-adaptive"
    option: str | Mapping[str, Any] = "coefficients.temperature"
    stream: str | None = None
    seed: int | None = None
    device: str | None = None


@functools.lru_cache(maxsize=1)
def opened(asked: str) -> EntryTuning:
    """Return the tuning that is asked for; the last one is kept, because its trials follow each other.

    asked: JSON, the fields of ``Wanted`` and ``run``, the run's folder. Raises FedMergeError for what is not
    there.
    """
    given = json.loads(asked)
    folder, seed = Path(given["run"]), given["seed"]
    if not is_there(folder / "config.yaml"):
        raise FedMergeError(f"'{short(folder)}' is not the folder of a run: it has no config.yaml.")
    own_files.enter(folder)
    experiment, cohort = read_saved(folder / "config.yaml")
    if not all(len(site.everything) for site in cohort.sites):
        raise FedMergeError(
            f"the hospitals' images of '{folder}' are not on this machine any more, so nothing can be tuned: "
            "do it where they are."
        )
    seed = experiment.seeds[0] if seed is None else seed
    if seed not in experiment.seeds:
        raise unknown("seed", str(seed), map(str, experiment.seeds))
    if seed != experiment.seeds[0]:
        assert isinstance(experiment.cohort, CohortSpec)  # a run writes its cohort out
        cohort = build_cohort(experiment.cohort, seed)
    if given["stream"] is not None:
        experiment = _with_stream(experiment, given["stream"])
    entry = _entry(experiment, given["method"], given["option"])
    with reproducible(experiment.threads):
        setup, site = reopen(folder, experiment, cohort, seed, given["target"], given["device"])
        return EntryTuning.of(setup, site, entry)


def reopen(
    folder: Path,
    experiment: Experiment,
    cohort: Cohort,
    seed: int,
    target: str | None,
    device: str | None,
) -> tuple[Setup, str]:
    """Return the setup of the federation that serves ``target``, and the target's name."""
    found = {site: each for each in federations(cohort, experiment) for site in each.targets}
    if target is None and len(found) > 1:
        raise FedMergeError(
            f"the run in '{folder}' has {len(found)} targets, each with its own sources: give one with "
            f"--target: {', '.join(found)}."
        )
    site = next(iter(found)) if target is None else target
    if site not in found:
        raise unknown("target", site, found)
    federation = found[site]
    kept = folder / f"seed-{seed}" / federation.name
    if not any((kept / "pool").glob("*.safetensors")):
        raise FedMergeError(
            f"'{folder}' keeps no models: there are none in '{kept / 'pool'}'. Do the run again, or put its "
            "models back."
        )
    record, where = Record({}), pick_device(device or experiment.device)
    return set_up(experiment, cohort, federation.members, seed, kept, record, where), site


def _with_stream(experiment: Experiment, name: str) -> Experiment:
    known = {spec.name: spec for spec in experiment.evaluation.streams if spec.shift is None}
    known.setdefault("iid", StreamSpec(kind="iid"))
    if name not in known:
        raise unknown("stream", name, known)
    evaluation = experiment.evaluation.model_copy(update={"streams": (known[name],)})
    return experiment.model_copy(update={"evaluation": evaluation})


def _entry(experiment: Experiment, method: str, option: str | Mapping[str, Any]) -> MethodConfig:
    """Return the run's own entry with that label or method, else the bare method; with ``option`` tuned."""
    own = [entry for entry in experiment.testtime if entry.start == "merged"]
    named = [entry for entry in own if entry.label == method] or [e for e in own if e.method == method]
    asked: Mapping[str, Any] = {"option": option} if isinstance(option, str) else option
    options = without(dict(named[0].options) if named else {}, asked["option"].split("."))
    extra_options = {"tune": asked} | ({"calibrated": True} if named and named[0].calibrated else {})
    return asked_method(TESTTIME, {"method": named[0].method if named else method} | extra_options | options)
