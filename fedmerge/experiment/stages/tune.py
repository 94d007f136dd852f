"""Tune an option of a test-time method on the hospitals that trained: in a run, or after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedmerge.storage.own_files as own_files
from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.streams import StreamSpec
from fedmerge.errors import FedMergeError, short, unknown
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig, read_method
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.folder.machine import pick_device, reproducible
from fedmerge.experiment.folder.reopen import read_saved
from fedmerge.experiment.stages.evaluation import TargetStreams
from fedmerge.experiment.stages.nodes import node_of
from fedmerge.experiment.stages.record import Progress, Record
from fedmerge.experiment.stages.setup import Setup, set_up
from fedmerge.schema.faults import without
from fedmerge.schema.validation import is_there
from fedmerge.testtime import TESTTIME, Node
from fedmerge.testtime.tuning import LabelledSource, Tuning, as_text, tune


def make_node(
    setup: Setup,
    entry: MethodConfig,
    models: Mapping[str, nn.Module],
    chosen: Mapping[str, Any] | None = None,
) -> Node:
    """Make the test-time method of an entry over these models, with the run's batch-norm policy.

    models: by name, in order. A calibrated entry gets the temperature on each one's card in the pool; raises
    FedMergeError where a card has none. chosen: tuned options, on top of the entry's own.
    """
    return node_of(entry, models, setup.plan.batch_norm, setup.pool.card, chosen)


def tune_entry(setup: Setup, target: str, entry: MethodConfig) -> Tuning:
    """Tune the option that an entry names for ``target``: on its sources, with nothing of the target.

    Each source's validation images arrive as ``evaluation`` says: the same streams and batch size. Streams
    in which the scanner drifts are left out; where there are no others the images arrive in any order (iid).
    """
    assert entry.tune is not None
    evaluation = setup.experiment.evaluation
    still = tuple(spec for spec in evaluation.streams if spec.shift is None)
    evaluation = evaluation.model_copy(update={"streams": still or (StreamSpec(kind="iid"),)})
    names = setup.sources(target)
    setup.record.stage(f"seed {setup.seed}: tuning {entry.label} for {target}")
    sources = []
    for name in names:
        held = setup.cohort.here(name).val
        orders = TargetStreams.of(name, held, evaluation, setup.seed).orders if len(held) else {}
        sources.append(
            LabelledSource(
                name=name,
                model=setup.pool.model(name, setup.device),
                images=setup.normalise(name)(held.images.to(setup.device)),
                labels=held.labels,
                orders={stream: torch.from_numpy(order) for stream, order in orders.items()},
            )
        )
    option = entry.tune.option

    def build(models: Sequence[nn.Module], value: Any) -> Node:
        left = {s.name: s.model for s in sources if any(s.model is model for model in models)}
        return make_node(setup, entry, left, {option: value})

    return tune(
        sources,
        build,
        option=option,
        values=entry.tune.values,
        batch_size=evaluation.batch_size,
        progress=lambda done, total: setup.record.step(f"{done} of {total}", done, total),
    )


def tuning_log(found: Tuning, scored: str = "accuracy") -> list[dict[str, Any]]:
    """Return a tuning as rows of a decision log, one per value and held-out source; ``chosen`` marks one.

    scored: the name of the score. Values are text, because JSON has no infinity.
    """
    return [
        {
            "option": found.option,
            "value": as_text(score.value),
            "held_out": score.held_out,
            scored: score.accuracy,
            "chosen": score.value == found.chosen,
        }
        for score in found.scores
    ]


def tune_run(
    folder: str | Path,
    *,
    target: str | None = None,
    method: str = "entropy-adaptive",
    option: str = "coefficients.temperature",
    values: Sequence[Any] | None = None,
    stream: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[MethodConfig, Tuning]:
    """Tune an option on the models and hospitals of a finished run; return the entry and the tuning.

    target: for which unseen site, if there are several. method: a test-time method, or the label of one of
    the run's, whose other options are kept. values: those to try; a temperature has defaults. stream: one
    of the run's streams by name instead of all, or ``iid``. seed: of the run's seeds, by default the first.
    progress: called with (stage, done, total).
    Raises FedMergeError for a folder that is no run's, a run without models or whose images are not on this
    machine, a name that is not there, and fewer than 3 sources.
    """
    folder = Path(folder)
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
    if stream is not None:
        experiment = _with_stream(experiment, stream)
    entry = _entry(experiment, method, option, values)
    with reproducible(experiment.threads):
        setup, site = _reopen(folder, experiment, cohort, seed, target, device, progress)
        return entry, tune_entry(setup, site, entry)


def _reopen(
    folder: Path,
    experiment: Experiment,
    cohort: Cohort,
    seed: int,
    target: str | None,
    device: str | None,
    progress: Progress | None = None,
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
    record, where = Record({}, progress), pick_device(device or experiment.device)
    return set_up(experiment, cohort, federation.members, seed, kept, record, where), site


def _with_stream(experiment: Experiment, name: str) -> Experiment:
    known = {spec.name: spec for spec in experiment.evaluation.streams if spec.shift is None}
    known.setdefault("iid", StreamSpec(kind="iid"))
    if name not in known:
        raise unknown("stream", name, known)
    evaluation = experiment.evaluation.model_copy(update={"streams": (known[name],)})
    return experiment.model_copy(update={"evaluation": evaluation})


def _entry(experiment: Experiment, method: str, option: str, values: Sequence[Any] | None) -> MethodConfig:
    """Return the run's own entry with that label or method, else the bare method; with ``option`` tuned."""
    own = [entry for entry in experiment.testtime if entry.start == "merged"]
    named = [entry for entry in own if entry.label == method] or [e for e in own if e.method == method]
    options = without(dict(named[0].options) if named else {}, list(option.split(".")))
    asked: dict[str, Any] = {"option": option} | ({} if values is None else {"values": list(values)})
    extra_options = {"tune": asked} | ({"calibrated": True} if named and named[0].calibrated else {})
    name = named[0].method if named else method
    try:
        return read_method(TESTTIME, {"method": name} | extra_options | options)
    except ValueError as error:
        raise FedMergeError(str(error)) from None
