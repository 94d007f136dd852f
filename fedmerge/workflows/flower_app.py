"""The Flower apps of this project: ``flwr run .`` runs an experiment, in simulation or in a deployment.

``[tool.flwr.app]`` in pyproject.toml names them. The run's configuration says which experiment (``config``,
``set``), which ``seed``, how many ``threads`` each process has, and where the results go (``out``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fedmerge.data import Cohort, Site, build_cohort, read_cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.folder.machine import pick_device, settle
from fedmerge.federation import client_of, server_of
from fedmerge.schema.validation import validate
from fedmerge.storage.files import write_json

if TYPE_CHECKING:
    from fedmerge.federation import Backend, Hospital


class RunConfig(BaseModel):
    """``[tool.flwr.app.config]``: the same for the server and every hospital.

    config: a YAML file, or the name of a shipped one. changes: as ``--set``, several with ``;`` between them.
    seed: the one seed of this run. threads: of each process; the same number gives the same bits. out: the
    run's folder on the server, absolute, new or empty; "" for the next free runs/NAME-001 where the server
    was started. resume: the folder of an interrupted run that is to go on. patience: seconds that the server
    waits for hospitals to come. admitted: a deployment's file of the admitted hospitals. inspect: the file
    for what hospitals report of their images, in a run that does nothing else; minimum, checks: see
    ``federation.inspection``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str
    changes: str = Field(default="", alias="set")
    seed: int = 0
    threads: int = Field(default=1, ge=1)
    out: str = ""
    resume: str = ""
    patience: float = Field(default=300.0, ge=0)
    admitted: str = ""
    inspect: str = ""
    minimum: int = 5
    checks: bool = False

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> RunConfig:
        """Check a run's configuration; raises FedMergeError for a field that is unknown or out of range."""
        return validate(cls, dict(given), "the run's configuration")

    @property
    def overrides(self) -> list[str]:
        """``set`` as a list, with the number of threads."""
        own = [part.strip() for part in self.changes.split(";") if part.strip()]
        return [*own, f"threads={self.threads}"]


class NodeConfig(BaseModel):
    """What a node says of itself (``--node-config``): which hospital it is.

    In a deployment: site, the hospital's name; cohort, the file with that site on the hospital's side;
    device, as in an experiment; folder, the node's own, where it keeps its records. In a simulation Flower
    gives partition_id: the site of that number among those that train, in the order of the cohort.
    """

    model_config = ConfigDict(frozen=True)

    site: str | None = None
    cohort: str | None = None
    device: str | None = None
    folder: Path | None = None
    partition_id: int | None = Field(default=None, alias="partition-id")
    num_partitions: int | None = Field(default=None, alias="num-partitions")


def _serve(backend: Backend, run_config: Mapping[str, Any]) -> None:
    from fedmerge.federation.admission import read_admitted
    from fedmerge.federation.inspecting import inspect_all
    from fedmerge.federation.messages.jobs import InspectJob
    from fedmerge.workflows.run import run  # not at a hospital, where each message starts a process

    given = RunConfig.read(run_config)
    if given.inspect:
        names = {node: hospital.name for node, hospital in (read_admitted(given.admitted) or {}).items()}
        wish = InspectJob(minimum=given.minimum, checks=given.checks)
        write_json(Path(given.inspect), inspect_all(backend, names, wish, given.patience))
        return
    if given.resume:
        run(resume=given.resume, backend=backend)
        return
    run(given.config, changes=given.overrides, out=given.out or None, seed=given.seed, backend=backend)


def _hospital(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Hospital:
    given = RunConfig.read(run_config)
    node = validate(NodeConfig, dict(node_config), "the node's configuration")
    if node.folder is None:
        settle(given.threads)
        return _known(given, node)
    return _deployed(given, node, node.folder)


def _deployed(given: RunConfig, node: NodeConfig, folder: Path) -> Hospital:
    """Return a deployed node's hospital.

    Raises FedMergeError that does not name what cannot be read: a server hears that sentence, and names of
    files may be names of patients. The node's audit log has the rest.
    """
    from fedmerge.federation.policy.audit import audit
    from fedmerge.federation.policy.keeping import admit_plugins
    from fedmerge.federation.policy.rules import read_policy

    try:
        admit_plugins(folder)  # before anything could look for others
        settle(min(given.threads, read_policy(folder).limits.threads))
        return _known(given, node)
    except Exception as error:
        reason = str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
        audit(folder, "failed", reason=reason)
        raise FedMergeError(
            f"hospital '{node.site}' cannot read its images, its policy or its plug-ins: its own people see "
            "why in the audit log of its node (`fedmerge deployment audit NODE`)."
        ) from error


@lru_cache(maxsize=64)
def _known(given: RunConfig, node: NodeConfig) -> Hospital:
    """Return a node's hospital; it is kept between messages as long as the process lives."""
    from fedmerge.federation import Hospital
    from fedmerge.federation.hospital.sums.session_store import SessionStore
    from fedmerge.federation.policy.guard import Guard
    from fedmerge.federation.policy.rules import read_policy

    device, site = _site(given, node)
    session_store = SessionStore(
        Path(os.environ.get("FLWR_HOME", "~/.flwr")).expanduser() / "fedmerge" / site.name
    )
    chosen, folder = pick_device(node.device or device), node.folder
    if folder is None:
        return Hospital(site, chosen, session_store=session_store)
    least = read_policy(folder).minimum_images
    guard = Guard(folder, given.seed, given.threads)
    return Hospital(site, chosen, minimum=least, session_store=session_store, folder=folder, guard=guard)


def _site(given: RunConfig, node: NodeConfig) -> tuple[str, Site]:
    """The experiment's device, and the node's site."""
    if node.cohort is not None:
        spec = read_cohort(node.cohort)
        return "auto", _by_name(build_cohort(spec, given.seed), node)
    experiment, cohort = _experiment(given)
    named = node.site is not None
    site = _by_name(cohort, node) if named else _by_number(experiment, cohort, node)
    if site.remote:
        raise FedMergeError(
            f"the experiment has '{site.name}' as remote, but its node names no file with its images: start "
            'it with --node-config \'site="NAME" cohort="FILE"\'.'
        )
    return experiment.device, site


@lru_cache(maxsize=1)
def _experiment(given: RunConfig) -> tuple[Experiment, Cohort]:
    experiment, spec = read_experiment(given.config, given.overrides, given.seed)
    return experiment, build_cohort(spec, given.seed)


def _by_name(cohort: Cohort, node: NodeConfig) -> Site:
    if node.site is None:
        raise FedMergeError(f"--node-config names '{node.cohort}' but no site in it: add site=\"NAME\".")
    return cohort[node.site]


def _by_number(experiment: Experiment, cohort: Cohort, node: NodeConfig) -> Site:
    training = {name for federation in federations(cohort, experiment) for name in federation.members}
    sites = [site for site in cohort.sites if site.name in training]
    if node.partition_id is None:
        raise FedMergeError(
            'a node must say which hospital it is: start it with --node-config \'site="NAME" cohort="FILE"\'.'
        )
    if node.num_partitions is not None and node.num_partitions < len(sites):
        raise FedMergeError(
            f"{len(sites)} hospitals train, but the simulation has {node.num_partitions} nodes: give flwr "
            f'run --federation-config "num-supernodes={len(sites)}".'
        )
    if node.partition_id >= len(sites):
        raise FedMergeError(f"node {node.partition_id} is spare: {len(sites)} hospitals train.")
    return sites[node.partition_id]


server = server_of(_serve)
client = client_of(_hospital)
