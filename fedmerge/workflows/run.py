"""``run``: one experiment from its configuration to its result on disk."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.analysis import METRICS
from fedmerge.analysis.diagnosis.rows import ABOUT
from fedmerge.blame import exits_named
from fedmerge.cluster.head import HeadLost
from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.checks.checks import remarks, together
from fedmerge.data.progress import telling
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.folder.folders import new_folder
from fedmerge.experiment.folder.later_files import later_files, same_files
from fedmerge.experiment.folder.machine import describe, pick_device, reproducible
from fedmerge.experiment.folder.results import Result, columns, open_checked
from fedmerge.experiment.folder.run_manifest import (
    CONFIG,
    NAME,
    RunManifest,
    at_work,
    begin,
    read_begun,
    resolved,
    same_experiment,
    same_place,
)
from fedmerge.experiment.interrupt import Stopped, stoppable
from fedmerge.experiment.stages.preflight import check_seeds
from fedmerge.experiment.stages.record import Progress, Record
from fedmerge.experiment.stages.second import second_process
from fedmerge.experiment.stages.seed import run_seed
from fedmerge.experiment.stages.tracking import check_trackers, tracked
from fedmerge.experiment.summary.federation_summary import federation_in_words
from fedmerge.experiment.summary.privacy_summary import privacy_in_words
from fedmerge.federation import open_backend
from fedmerge.federation.grids.backends import LocalBackend, waited_for
from fedmerge.reports.run_report import write_report
from fedmerge.storage import manifest
from fedmerge.storage.files import DiskError

if TYPE_CHECKING:
    from fedmerge.federation import Backend, BackendLike


UNHASHED = ("seeds", "device", "plugins", "trackers", "diagnose")
"""Fields that are not in the hash of a run's configuration; of plug-ins their code is."""
STOPPING = "stopping after what is in flight (Ctrl-C: at once)"


def run(
    config: str | Path | dict[str, Any] | Experiment | None = None,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    backend: BackendLike = None,
    resume: str | Path | None = None,
    plugins: Sequence[str] = (),
    progress: Progress | None = None,
) -> Result:
    """Run an experiment: hospitals train, a server fuses, an unseen hospital adapts.

    config: a YAML file, the name of a shipped configuration, a mapping, or an ``Experiment``. changes:
    overrides such as ``"training.rounds=10"``. out: the run's folder, new or empty; by default the next free
    ``runs/NAME-001``. seed: run this seed alone. device: ``auto``, ``cpu``, ``cuda``. backend: where the
    hospitals work, which changes no number: ``local`` (this process), ``ray``, or a ``fm.BackendConfig`` or
    its fields. resume: the folder of a run that was interrupted, which goes on where it stopped, with its own
    configuration, and ends with the bits it would have had; one that is finished is returned as it is.
    plugins: modules or files, FILE.py, besides those that the configuration names. progress: called with
    (stage, done, total).

    Returns the ``Result``; its tables, models and report lie in ``result.folder``. Raises FedMergeError for
    bad input of any of its seeds; for what can be seen before the start, nothing is written. Every checkpoint
    of a run is kept as soon as it is finished. One Ctrl-C ends the run after what is in flight, a second at
    once, with ``Stopped``, which says how to resume it.

    >>> result = run("configs/quickstart.yaml")            # doctest: +SKIP
    """
    if resume is not None:
        if out is not None:
            raise FedMergeError("a run goes on in its own folder: give --resume, or --out, but not both.")
        return _go_on(Path(resume), config, changes, seed, device, backend, plugins, progress)
    if config is None:
        raise FedMergeError("give a configuration to run, or --resume with the folder of a run.")
    experiment, spec = read_experiment(config, changes, seed, device, plugins=plugins)
    where = pick_device(experiment.device)
    with telling(progress):
        first = build_cohort(spec, experiment.seeds[0])  # reports bad data before anything is written
    check_seeds(experiment, spec, first, elsewhere=getattr(backend, "remote", False))
    check_trackers(experiment.trackers)
    with _opened(backend, progress) as (place, threads), reproducible(experiment.threads or threads):
        folder = new_folder(experiment.name, out)
        machine = describe(where) | {"hospitals": place.words}
        with at_work(folder):
            begun = begin(folder, experiment, spec, first, machine)
            with _saying_how_it_goes_on(folder):
                return _work(folder, begun, experiment, spec, first, place, machine, progress)


def _go_on(
    folder: Path,
    config: str | Path | dict[str, Any] | Experiment | None,
    changes: Sequence[str],
    seed: int | None,
    device: str | None,
    backend: BackendLike,
    plugins: Sequence[str],
    progress: Progress | None,
) -> Result:
    read_begun(folder)  # refuses a folder that is no run's before anything is written into it
    with at_work(folder):
        kept = read_begun(folder)
        experiment, spec = same_experiment(folder, kept, config, changes, seed, device, plugins)
        if kept is not None and kept.finished:
            finished = f"the run in '{folder}' is finished: nothing of it was done again."
            manifest.finish(folder, "run")
            result = open_checked(folder)
            return replace(result, remarks=(finished, *result.remarks))
        where = pick_device(experiment.device)
        with telling(progress):
            first = build_cohort(spec, experiment.seeds[0])
        manifest.begin(folder, "run")
        threads = kept.threads if kept is not None else experiment.threads
        with _opened(backend, progress) as (place, own), reproducible(threads or own):
            machine = describe(where) | {"hospitals": place.words}
            begun = same_place(folder, kept, experiment, spec, first, machine)
            damaged = [] if kept is not None else [f"'{folder / NAME}' was damaged and is made anew."]
            begun = begun.taken_up(machine["versions"], damaged).write(folder)
            with _saying_how_it_goes_on(folder):
                return _work(folder, begun, experiment, spec, first, place, machine, progress)


def _opened(
    backend: BackendLike, progress: Progress | None
) -> AbstractContextManager[tuple[Backend, int | None]]:
    """Open a backend; say what is waited for, because a cluster may take its time."""
    if progress is not None and (waited := waited_for(backend)):
        progress(waited, 0, 0)
    return open_backend(backend)


def _work(
    folder: Path,
    begun: RunManifest,
    experiment: Experiment,
    spec: CohortSpec,
    first: Cohort,
    place: Backend,
    machine: dict[str, Any],
    progress: Progress | None,
) -> Result:
    """Do the unfinished work of a run. first: the cohort with the first seed."""
    whole = resolved(experiment, spec)
    common = _common(experiment, spec, begun, machine, whole)
    began, device = time.perf_counter(), machine["device"].split(" ")[0]
    with second_process(folder, common, device, _workers(place, begun)) as second:
        with stoppable(lambda: record.stopping(STOPPING)) as pause:
            record = Record(common, progress, pause=pause)
            try:
                with tracked(experiment.trackers, whole, folder, record):
                    for each in experiment.seeds:
                        cohort = first if each == experiment.seeds[0] else build_cohort(spec, each)
                        same_files(folder, begun.files, later_files(experiment, spec))
                        where = "" if cohort is first else f"seed {each}"
                        record.images = together(record.images, remarks(cohort), where)
                        own = folder / f"seed-{each}"
                        run_seed(experiment, cohort, each, own, record, device, place, second)
            except BaseException as error:
                begun = begun.ended(time.perf_counter() - began, record.remarks, error)
                with suppress(DiskError):  # the checkpoints are there, the tables can be made of them again
                    begun.write(folder)
                    _result(experiment, first, record, begun, machine, folder).save()
                raise
        done = begun.ended(time.perf_counter() - began, record.remarks)
        record.stage("drawing the report", jobs=0)
        try:
            result = _result(experiment, first, record, done, machine, folder)
            result.save()
            write_report(result, meanwhile=second.call)
        except BaseException as error:
            with suppress(DiskError):
                begun.ended(time.perf_counter() - began, record.remarks, error).write(folder)
            raise
    done.write(folder)
    manifest.close(folder, "run")
    return result


def _common(
    experiment: Experiment,
    spec: CohortSpec,
    begun: RunManifest,
    machine: dict[str, Any],
    whole: dict[str, Any],
) -> dict[str, Any]:
    """Return what stands in every row of results. whole: the configuration, written out."""
    decides = {key: value for key, value in whole.items() if key not in UNHASHED}
    return {
        "experiment": experiment.name,
        "cohort": spec.name,
        "model": experiment.model.name,
        "device": machine["device"],
        "versions": json.dumps(machine["versions"]),
        "config_hash": _hash(decides | ({"plugins": begun.plugins} if begun.plugins else {})),
    }


def _workers(place: Backend, begun: RunManifest) -> int | None:
    """Return how many processes a run may have: 1 where another one could not take it up."""
    return place.workers if isinstance(place, LocalBackend) and not begun.in_memory else 1


@contextmanager
def _saying_how_it_goes_on(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C, a DiskError and a HeadLost inside the block into a sentence that says how to resume."""
    try:
        with exits_named():
            yield
    except KeyboardInterrupt:
        raise Stopped(folder) from None
    except (DiskError, HeadLost) as error:
        goes_on = f"fedmerge run --resume {shlex.quote(str(folder))}"
        raise FedMergeError(f"{error} What is finished is kept: {goes_on} goes on with it.") from None


def rules(experiment: Experiment) -> dict[str, str]:
    """Return the rules behind the numbers, in words, as the report prints them."""
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


def _hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _result(
    experiment: Experiment,
    cohort: Cohort,
    record: Record,
    begun: RunManifest,
    machine: dict[str, Any],
    folder: Path,
) -> Result:
    provenance = machine | rules(experiment)
    provenance |= {
        "config_hash": record.common["config_hash"],
        "started": begun.started,
        "command": f"fedmerge run {folder / CONFIG}",
    }
    if spent := privacy_in_words(experiment, record.history):
        provenance["privacy"] = spent
    if record.images:
        provenance["remarks"] = list(record.images.values())
    if begun.resumed:
        provenance["resumed"] = [sitting.model_dump(mode="json") for sitting in begun.resumed]
    if begun.finished:
        provenance["seconds"] = begun.seconds
    return Result(
        experiment=experiment,
        cohort=cohort,
        provenance=provenance,
        folder=folder,
        remarks=(*record.images.values(), *(begun.resumed[-1].remarks if begun.resumed else ())),
        table=record.frame("results", columns(METRICS.among(experiment.plugins), [cohort.task])).astype(
            {"constant": "boolean"}
        ),
        history=record.frame("history", ["seed", "federation", "round", "phase", "site"]),
        coefficients=record.frame(
            "coefficients", ["seed", "site", "method", "stream", "batch", "source", "encoder", "head"]
        ),
        decisions=record.frame("decisions", ["seed", "site", "method", "model"]),
        failures=record.frame(
            "failures", ["seed", "where", "site", "reason", "attempt", "then", "kind", "injected"]
        ),
        reliability=record.frame("reliability", ["seed", "site", "method", "kind", "stream", "bin"]),
        diagnosis=record.frame("diagnosis", ["seed", "federation", *ABOUT]),
    )
