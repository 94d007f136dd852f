"""The plug-ins of an experiment: loaded before its configuration is checked, and found in what a job uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.analysis import METRICS
from fedmerge.data.sources.sources import kind_of
from fedmerge.errors import Faults
from fedmerge.federation.aggregators import AGGREGATORS
from fedmerge.merging import FUSION
from fedmerge.models.zoo import module_of, network
from fedmerge.plugin_code import Plugin
from fedmerge.plugins import load_module, load_plugins, locate_plugins, origin_of
from fedmerge.testtime import TESTTIME

if TYPE_CHECKING:
    from fedmerge.experiment.configuration.config import Experiment

Config = dict[str, Any]
METHODS = {"fusion": FUSION, "test-time": TESTTIME}


def plug_in(data: Config, near: Path | None, more: Sequence[str], faults: Faults) -> None:
    """Load the plug-ins that a configuration names, and write them into it as they were found.

    near: the folder of the configuration. more: plug-ins named besides, relative to the working directory.
    The module of a network ``MODULE:FACTORY`` is loaded, too. Faults go to ``faults``.
    """
    named = data.get("plugins") or ()
    if not isinstance(named, list | tuple) or not all(isinstance(name, str) for name in named):
        return  # the schema says what is wrong
    found: dict[str, None] = {}
    for name, place in [*((name, near) for name in named), *((name, None) for name in more)]:
        with faults.kept():
            located = locate_plugins([name], place)
            load_plugins(located)
            found |= dict.fromkeys(located)
    if found:
        data["plugins"] = list(found)
    model = data.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if isinstance(name, str) and (module := module_of(name)):
        with faults.kept():
            load_module(module)


def plugin_hashes(experiment: Experiment) -> dict[str, str]:
    """Return the hash of each plug-in that an experiment names or uses, by title."""
    model = experiment.model.name
    named = [load_module(name) for name in experiment.plugins]
    used = [network(model).origin if _is_ours(model) else None]
    used += [FUSION[entry.method].origin for entry in experiment.fusion]
    used += [TESTTIME[entry.method].origin for entry in experiment.testtime]
    used += [AGGREGATORS[experiment.federation.aggregate.method].origin]
    used += [origin_of(metric.call) for metric in METRICS.among(experiment.plugins)]
    return {plugin.title: plugin.hash for plugin in (*named, *used) if plugin is not None}


def code_of(job: Config, plugins: Sequence[str]) -> dict[str, str]:
    """Return the hash of each plug-in that decides what a job of a study gives, by title.

    job: its configuration. plugins: those that its experiment names, whose metrics its rows have.
    """
    return {plugin.title: plugin.hash for plugin in _used(job, plugins) if plugin is not None}


def _used(job: Config, plugins: Sequence[str]) -> Iterator[Plugin | None]:
    experiment = job["experiment"]
    yield network(experiment["model"]["name"]).origin if _is_ours(experiment["model"]["name"]) else None
    cohort = experiment["cohort"]
    for part in (cohort, *cohort["sites"]):
        if isinstance(part.get("source"), str):
            yield origin_of(kind_of(part["source"]).call)
    aggregate = experiment.get("federation", {}).get("aggregate", {"method": "mean"})
    yield AGGREGATORS[aggregate["method"]].origin
    if job["kind"] == "evaluate":
        if job["as"] in METHODS:
            yield METHODS[job["as"]][job["method"]["method"]].origin
        yield from (origin_of(metric.call) for metric in METRICS.among(plugins))


def _is_ours(model: str) -> bool:
    return not model.startswith("torchvision:")


def load_for(job: Config, plugins: Mapping[str, bytes | None]) -> tuple[str, ...]:
    """Load a study's plug-ins in the process of a job; return the names of those that the job uses.

    plugins: as ``loaded_plugins`` of the study's process gives them.
    """
    found = [load_module(text, source) for text, source in plugins.items()]
    return tuple(plugin.name for plugin in found if plugin.title in job.get("plugins", {}))
