"""The stage ``evaluate``: one method, or the hospitals alone, measured at a target. All stages by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fedmerge.experiment.kinds import (
    DIAGNOSIS,
    EVALUATE,
    FINE_TUNE,
    FUSION,
    MAJORITY,
    POOLED,
    ROUNDS,
    START,
)
from fedmerge.experiment.stages.diagnosis import diagnose_pool
from fedmerge.experiment.stages.evaluation import Predictor, evaluation_tasks
from fedmerge.experiment.stages.majority import majority
from fedmerge.experiment.stages.predictors import adapt, alone, fuse, fused_network, keep_fused, pooled
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.stage import FUSED, REFERENCES, Note, Stage
from fedmerge.experiment.stages.training import fine_tune, rounds
from fedmerge.experiment.stages.training import pooled as train_pooled

if TYPE_CHECKING:
    from fedmerge.federation import Server


def evaluate(stage: Stage) -> Note:
    """Measure the predictors of a step on every stream; each stream is a checkpoint."""
    setup, site = stage.setup, stage.streams()
    conditions = setup.conditions(site.name)
    for label, make in _predictors(stage):
        with stage.isolated(label):
            predictor = make()
            step = setup.record.stage(
                f"seed {setup.seed}: {label} at {site.name}", jobs=site.parts(conditions.evaluation.shifted)
            )
            for task in evaluation_tasks(predictor, site, conditions):
                part = (*stage.step.words, f"{label} {task.name}")
                if setup.checkpoints.load_if_done(*part) is None:
                    with setup.checkpoints.save(*part):
                        for measured in task.measure():
                            setup.record.result(setup.seed, site.name, measured)
                for stream in task.target_streams.orders:
                    step(stream, 1, 1)
    return {}


def _predictors(stage: Stage) -> Iterator[tuple[str, Callable[[], Predictor]]]:
    """Yield the label of each predictor of a step, and the function that makes it."""
    setup, target, entry = stage.setup, stage.step.target, stage.step.entry
    assert entry is not None
    match stage.step.rows:
        case "reference":
            told = stage.left_by(FINE_TUNE).get("told", {})
            yield MAJORITY, lambda: majority(setup, target, told)
        case "alone" | "oracle":
            yield from ((f"alone:{name}", partial(alone, setup, name)) for name in setup.sources(target))
        case "pooled":
            if POOLED in stage.pool(REFERENCES):  # else its training has failed, and is in the failures
                yield POOLED, lambda: pooled(setup, stage.pool(REFERENCES))
        case "fusion":
            yield entry.label, lambda: fused(stage)
        case _:
            start = stage.pool(START) if entry.needs_federated else None
            yield entry.label, lambda: adapt(setup, target, entry, stage.pool(REFERENCES), start)


def fused(stage: Stage) -> Predictor:
    """Return the predictor of a fusion method. The fusion is a checkpoint, and a fused network kept in it.

    An ensemble is not written to the disk: it is made once more, and nothing of that recorded.
    """
    setup, target, entry = stage.setup, stage.step.target, stage.step.entry
    assert entry is not None
    pool = stage.pool(FUSED) if stage.keeps_fused else None
    part, made = (*stage.step.words, FUSION), list[Predictor]()
    again = setup.checkpoints.load_if_done(*part) is not None
    if not again or pool is None or entry.label not in pool:
        quiet = replace(setup, record=Record(setup.record.common)) if again else setup

        def programme(server: Server) -> None:
            setup.record.stage(f"seed {setup.seed}: fusion by {entry.label} for {target}")
            start = stage.begin(server)
            stage.record_events(server)
            try:
                predictor, result = fuse(quiet, server, target, entry, start)
            finally:
                setup.record.skip(server.strategy) if again else stage.record_events(server)
            made.append(predictor)
            quiet.record.fusion(setup.seed, target, entry.label, result.decisions)
            if pool is not None and not again:
                keep_fused(setup, pool, target, predictor, result)

        with nullcontext() if again else setup.checkpoints.save(*part):
            setup.with_server(programme)
    if pool is not None and entry.label in pool:
        return fused_network(setup, pool, target, entry.label)
    return made[0]


STAGES: dict[str, Callable[[Stage], Note]] = {
    ROUNDS: rounds,
    FINE_TUNE: fine_tune,
    POOLED: train_pooled,
    DIAGNOSIS: diagnose_pool,
    EVALUATE: evaluate,
}
