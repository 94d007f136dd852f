"""Tune an option of a test-time method on the hospitals that trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fedmerge.data.streams import StreamSpec
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.stages.nodes import node_of
from fedmerge.experiment.stages.setup import Setup
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.testtime import Node
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

    Each source's validation images arrive as ``evaluation`` says: streams, batch size, at most as many.
    Streams in which the scanner drifts are left out; where there are no others the images arrive in any
    order (iid).
    """
    assert entry.tune is not None
    evaluation = setup.experiment.evaluation
    still = tuple(spec for spec in evaluation.streams if spec.shift is None)
    evaluation = evaluation.model_copy(update={"streams": still or (StreamSpec(kind="iid"),)})
    names = setup.sources(target)
    setup.record.stage(f"seed {setup.seed}: tuning {entry.label} for {target}")
    sources = []
    for name in names:
        held = setup.held_out_images(name)
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
