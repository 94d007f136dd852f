"""The run manifest, ``run.json``: with what a run was begun, so that resuming another run is refused."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

import fedmerge.storage.manifest as manifest
import fedmerge.storage.own_files as own_files
from fedmerge.data import Cohort, CohortSpec, Site
from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.plugged import plugin_hashes
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.folder.later_files import in_memory, later_files, same_files
from fedmerge.experiment.kinds import VERSIONS
from fedmerge.models.start_file import start_digest
from fedmerge.schema.validation import differences, is_there, load_yaml
from fedmerge.schema.yaml_text import read_yaml
from fedmerge.storage.files import Damaged, digest, locked, read_sealed, write_sealed, write_text
from fedmerge.storage.living import Process, process

NAME, CONFIG = "run.json", "config.yaml"
RunStatus = Literal["running", "finished", "failed", "stopped"]
LONGEST = 1000  # characters of a reason


class Session(BaseModel):
    """One process that resumed a run: when, and the remarks on it."""

    model_config = ConfigDict(frozen=True)

    at: str
    remarks: tuple[str, ...] = ()


class RunManifest(BaseModel):
    """The manifest of a run: with what it was begun, its state, and the sessions that resumed it.

    config: SHA-256 of config.yaml. data: of each site's images and labels, with the first seed. files: of the
    files of further images that the run reads later: with further seeds, and for fusion at the server (see
    ``later_files``). sources: the
    folder where relative paths of the cohort start. in_memory: whether images were arrays, which no
    configuration brings back. plugins: SHA-256 of each plug-in's code. start: of the file of weights that the
    network begins from. stages: the version of each stage's meaning. threads: of this process, because
    their number decides the last bits. seconds: of the sessions so far that did not end in a crash. state: as
    the last process wrote it; process: the one that runs, so that one that was killed is known. reason: why
    it ended.
    """

    model_config = ConfigDict(frozen=True)

    config: str
    data: dict[str, str]
    sources: str | None
    in_memory: bool
    device: str
    threads: int
    versions: dict[str, str]
    started: str
    plugins: dict[str, str] = {}
    start: str = ""
    files: dict[str, str] = {}
    stages: dict[str, int] = {}
    seconds: float = 0.0
    resumed: tuple[Session, ...] = ()
    finished: bool = False
    state: RunStatus = "running"
    process: Process | None = None
    reason: str = ""

    def write(self, folder: Path) -> RunManifest:
        """Write the manifest into the folder and return it. Raises DiskError."""
        write_sealed(folder / NAME, self.model_dump())
        return self

    def taken_up(self, versions: dict[str, str], remarks: Sequence[str]) -> RunManifest:
        """Return the manifest of a run resumed now. versions: of the packages here; others get a remark."""
        others = [f"{name} {old}" for name, old in self.versions.items() if versions.get(name) != old]
        said = [f"it was begun with {', '.join(others)}: its numbers may differ in the last digits."]
        sitting = Session(at=now(), remarks=(*remarks, *(said if others else ())))
        news = {"resumed": (*self.resumed, sitting), "state": "running", "process": process(), "reason": ""}
        return self.model_copy(update=news)

    def ended(
        self, seconds: float, remarks: Sequence[str], error: BaseException | None = None
    ) -> RunManifest:
        """Return the manifest of a run that ended by an error, or is finished.

        remarks: added to those of the last session that resumed it.
        """
        resumed = self.resumed
        if resumed:
            last = resumed[-1]
            resumed = (*resumed[:-1], Session(at=last.at, remarks=(*last.remarks, *remarks)))
        news = {"seconds": round(self.seconds + seconds, 1), "resumed": resumed, "finished": error is None}
        state, reason = outcome(error)
        return self.model_copy(update=news | {"state": state, "reason": reason, "process": None})


def outcome(error: BaseException | None) -> tuple[RunStatus, str]:
    """Return the state and the reason of a run that ended by this error, or by none."""
    if error is None:
        return "finished", ""
    if isinstance(error, Exception):
        said = str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
        return "failed", said[:LONGEST]
    return "stopped", "it was told to stop"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, and the run's files inside it.

    Raises FedMergeError where another process is in it.
    """
    own_files.enter(folder)
    with locked(folder, f"another process is at work on the run in '{folder}': wait for it, or stop it."):
        yield


def begin(
    folder: Path, experiment: Experiment, spec: CohortSpec, cohort: Cohort, machine: dict[str, Any]
) -> RunManifest:
    """Write config.yaml and run.json into a new folder. machine: of ``experiment.machine.describe``."""
    text = yaml.safe_dump(resolved(experiment, spec), sort_keys=False, allow_unicode=True)
    manifest.begin(folder, "run")
    write_text(folder / CONFIG, text)
    return _as_it_is(folder, experiment, spec, cohort, machine).write(folder)


def resolved(experiment: Experiment, spec: CohortSpec) -> dict[str, Any]:
    """Return an experiment as config.yaml has it: every field written out, the cohort inside."""
    data = experiment.model_dump(mode="json", exclude={"cohort"})
    return {"name": data.pop("name"), "cohort": spec.model_dump(mode="json", exclude_none=True)} | data


def read_begun(folder: Path) -> RunManifest | None:
    """Read run.json; None where it is damaged. Raises FedMergeError for a folder that cannot be resumed."""
    if not is_there(folder / CONFIG):
        raise FedMergeError(f"'{short(folder)}' is not the folder of a run: it has no {CONFIG}.")
    if not (folder / NAME).is_file():
        raise FedMergeError(
            f"the run in '{folder}' cannot go on, because nothing of it was kept (there is no {NAME}): begin "
            f"a new one with fedmerge run {shlex.quote(str(folder / CONFIG))}."
        )
    try:
        return RunManifest.model_validate(read_sealed(folder / NAME))
    except (Damaged, ValidationError):
        return None


def same_experiment(
    folder: Path,
    begun: RunManifest | None,
    config: str | Path | dict[str, Any] | Experiment | None,
    changes: Sequence[str],
    seed: int | None,
    device: str | None,
    plugins: Sequence[str] = (),
) -> tuple[Experiment, CohortSpec]:
    """Return the experiment of a run to be resumed, as its folder has it.

    Raises FedMergeError where config.yaml was changed since, or a given configuration differs from it.
    """
    path = folder / CONFIG
    if begun is not None and digest(path) != begun.config:
        raise FedMergeError(
            f"'{path}' was changed after the run in that folder had begun: put it back, or begin a new run "
            f"with fedmerge run {shlex.quote(str(path))}."
        )
    if config is None and begun is not None and begun.in_memory:
        raise FedMergeError(
            f"the images of the run in '{folder}' were arrays in memory, which are not in its folder: give "
            "the experiment again, as run(experiment, resume=folder)."
        )
    kept = load_yaml(path)
    experiment, spec = read_experiment(
        kept if config is None else config, changes, seed, device, plugins=plugins
    )
    if begun is not None and begun.sources is not None and config is None:
        spec._folder = Path(begun.sources)
    changed = list(differences(kept, read_yaml(yaml.safe_dump(resolved(experiment, spec)), CONFIG)))
    if changed:
        field, before, given = changed[0]
        more = f" ({len(changed) - 1} more differences)" if len(changed) > 1 else ""
        raise FedMergeError(
            f"the run in '{folder}' was begun with another configuration: '{field}' was {before!r}, but "
            f"{given!r} is given{more}. Resume it without one, or begin a new run."
        )
    return experiment, spec


def same_place(
    folder: Path,
    begun: RunManifest | None,
    experiment: Experiment,
    spec: CohortSpec,
    cohort: Cohort,
    machine: dict[str, Any],
) -> RunManifest:
    """Return the run manifest; a damaged one is made anew from configuration, cohort and machine.

    Raises FedMergeError for another kind of device, and for images, plug-ins or stages other than the run
    began with.
    """
    here = _as_it_is(folder, experiment, spec, cohort, machine)
    if begun is None:
        return here
    if _kind(begun.device) != _kind(here.device):
        raise FedMergeError(
            f"the run in '{folder}' was begun on the device '{begun.device}', and here it would go on on "
            f"'{here.device}', with other bits: resume it where there is such a device, or begin a new run."
        )
    for name, kept in begun.data.items():
        if here.data.get(name) != kept:
            raise FedMergeError(
                f"the images of site '{name}' are not those that the run in '{folder}' was begun with: put "
                "them back, or begin a new run."
            )
    same_files(folder, begun.files, here.files)
    if begun.start != here.start:
        raise FedMergeError(
            f"the weights in '{experiment.model.pretrained}' are not those that the run in '{folder}' was "
            "begun with: put them back, or begin a new run."
        )
    for name in dict.fromkeys([*begun.plugins, *here.plugins]):
        if begun.plugins.get(name) != here.plugins.get(name):
            raise FedMergeError(
                f"plug-in {name} is not as it was when the run in '{folder}' was begun: put it back, "
                "or begin a new run."
            )
    for name, version in begun.stages.items():
        if here.stages.get(name) != version:
            raise FedMergeError(
                f"the run in '{folder}' was begun with FedMerge {begun.versions.get('fedmerge', '')}, whose "
                f"stage '{name}' gives other numbers: resume it with that version, or begin a new run."
            )
    return begun


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_it_is(
    folder: Path, experiment: Experiment, spec: CohortSpec, cohort: Cohort, machine: dict[str, Any]
) -> RunManifest:
    return RunManifest(
        config=digest(folder / CONFIG),
        data={site.name: _fingerprint(site) for site in cohort.sites},
        plugins=plugin_hashes(experiment),
        start=start_digest(experiment.model.pretrained),
        files=later_files(experiment, spec),
        stages=VERSIONS,
        sources=None if spec.folder is None else str(spec.folder),
        in_memory=in_memory(spec),
        device=machine["device"],
        threads=machine["threads"],
        versions=machine["versions"],
        started=now(),
        process=process(),
    )


def _fingerprint(site: Site) -> str:
    """Return the SHA-256 of a site's images and labels."""
    found = hashlib.sha256()
    for split in (site.train, site.val, site.test):
        for tensor in (split.images, split.labels):
            found.update(str(tuple(tensor.shape)).encode())
            for piece in tensor.split(1024):  # images may be more than memory holds
                found.update(piece.contiguous().numpy().reshape(-1).data)
    return found.hexdigest()


def _kind(device: str) -> str:
    """Return the kind of a device: ``cuda`` of ``cuda:1 (NVIDIA H100)``."""
    return device.split(" ")[0].split(":")[0]
