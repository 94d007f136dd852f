"""``run_deployed``: an experiment on the hospitals of a deployment, from its configuration to its result."""

from __future__ import annotations

import getpass
import json
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.reading import find_config, read_experiment
from fedmerge.experiment.configuration.undecided import undecided
from fedmerge.experiment.folder.folders import new_folder
from fedmerge.experiment.folder.results import Result, open_checked
from fedmerge.experiment.folder.run_manifest import CONFIG
from fedmerge.experiment.folder.state import state_of
from fedmerge.federation.deployment.bundle import CLIENT, SERVER
from fedmerge.federation.deployment.runs import note
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import audit
from fedmerge.storage.files import make_folder, write_text
from fedmerge.workflows.flower_app import RunConfig
from fedmerge.workflows.stopping import stop_deployed


def run_deployed(
    server: Path,
    config: str | Path | None = None,
    *,
    changes: Sequence[str] = (),
    out: Path | None = None,
    seed: int | None = None,
    resume: Path | None = None,
    patience: float = 300.0,
    plugins: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Run an experiment with the hospitals that come to a server, and wait for the result.

    server: its folder; SuperLink and gate must be up. config, changes, out: as ``run`` has them. seed: by
    default the first of the experiment. resume: the folder of an interrupted run, which goes on; give nothing
    else then. patience: seconds to wait for hospitals at the start. plugins: modules or files, FILE.py, of
    the server's machine, besides those that the configuration names. progress: called with the run's state in
    words. Raises FedMergeError for bad input, before anything is sent, and where the run fails.
    """
    folder = ServerFolder(server)
    if resume is not None:
        if config is not None or changes or out is not None or seed is not None or plugins:
            raise FedMergeError("a run goes on as it was begun: give --resume and nothing else.")
        place, given = resume.resolve(), _again(resume.resolve())
    elif config is None:
        raise FedMergeError("give a configuration to run, or --resume with the folder of a run.")
    else:
        given = _new(config, changes, seed, plugins)
        place = new_folder(given.pop("name"), out).resolve()
        given["out"] = str(place)
    given |= {"patience": patience, "admitted": str(folder.admitted)}
    flower = folder.flower
    app = project(folder.path / "app")
    told = RunConfig.read(given).model_dump(by_alias=True)
    run = flower.submit(app, told)
    note(folder.path, run, place)
    audit(folder.path, "run submitted", run=run, run_config=told)
    try:
        flower.wait(run, seen=progress and (lambda status: progress(_told(folder.path, run, place, status))))
    except KeyboardInterrupt:
        how = stop_deployed(folder, run, f"{getpass.getuser()} (Ctrl-C)")
        audit(folder.path, "run ended", run=run, how=how)
        raise
    except FedMergeError as error:
        audit(folder.path, "run ended", run=run, how=str(error))
        raise FedMergeError(f"{error} {_goes_on(folder.path, place)}") from None
    audit(folder.path, "run ended", run=run, how="completed")
    return open_checked(place)


def _told(server: Path, run: int, place: Path, status: str) -> str:
    """Return a run's state in words: its round, the approvals it waits for, or the SuperLink's status."""
    if status != "running":
        return status
    if waits := undecided(server, run):
        return f"waiting for approval by {', '.join(waits)}"
    found = state_of(place)
    return found.words if found is not None and found.state == "running" else status


def _goes_on(server: Path, place: Path) -> str:
    """Return the state of a run that ended, or whose server did, and the command that resumes it."""
    found, where = state_of(place), shlex.quote(str(server))
    if found is None:
        return f"Nothing is in '{place}' yet: fedmerge deployment status {where} says whether it is at work."
    again = f"fedmerge deployment run {where} --resume {shlex.quote(str(place))} goes on with it."
    at_work = f"It is {found.words}: see fedmerge deployment status {where}; when it has ended, {again}"
    return at_work if found.state == "running" else f"The run is {found.words}: {again}"


def _new(
    config: str | Path, changes: Sequence[str], seed: int | None, plugins: Sequence[str]
) -> dict[str, Any]:
    """Return the Flower run configuration of a new run, with the experiment's name."""
    file = find_config(config)
    experiment, cohort = read_experiment(file, changes, seed, plugins=plugins)
    changes = list(changes)
    if plugins:
        found = [path.replace("'", "''") for path in experiment.plugins]
        changes.append("plugins=[{}]".format(", ".join(f"'{path}'" for path in found)))  # whole paths
    if isinstance(experiment.cohort, str) and Path(experiment.cohort).suffix and cohort.folder:
        where = cohort.folder / Path(experiment.cohort).name  # for a server that was started elsewhere
        changes.append(f"cohort={where}")
    return {
        "name": experiment.name,
        "config": str(file.resolve()),
        "set": ";".join(changes),
        "seed": experiment.seeds[0],
        "threads": experiment.threads or 1,
    }


def _again(folder: Path) -> dict[str, Any]:
    """Return the Flower run configuration of a resumed run: seed and threads are those it was begun with."""
    experiment, _ = read_experiment(folder / CONFIG)
    return {
        "config": str(folder / CONFIG),
        "resume": str(folder),
        "seed": experiment.seeds[0],
        "threads": experiment.threads or 1,
    }


def project(folder: Path) -> Path:
    """Write the Flower project whose apps are this package as it is installed at each place."""
    defaults = RunConfig(config="quickstart").model_dump(by_alias=True)
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in defaults.items())
    make_folder(folder)
    write_text(
        folder / "pyproject.toml",
        f"""[project]
name = "fedmerge"
version = "{version("fedmerge")}"

[tool.flwr.app]
publisher = "fedmerge"

[tool.flwr.app.components]
serverapp = "{SERVER}"
clientapp = "{CLIENT}"

[tool.flwr.app.config]
{values}
""",
    )
    return folder
