"""Tune an option of a test-time method on the hospitals that trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedmerge.data.streams import StreamSpec
from fedmerge.experiment.configuration.entries import MethodConfig, TuneConfig
from fedmerge.experiment.stages.nodes import node_of
from fedmerge.experiment.stages.setup import Setup
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.schema.option_paths import with_option
from fedmerge.testtime import Node
from fedmerge.testtime.tuning import LabelledSource, Trial, Tuning, as_text, attempt, trials, tune


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


@dataclass(frozen=True)
class EntryTuning:
    """The tuning of an entry's option for one target: on its sources, with nothing of the target.

    Each source's validation images arrive as ``evaluation`` says: streams, batch size, at most as many.
    Streams in which the scanner drifts are left out; where there are no others the images arrive in any
    order (iid).
    """

    setup: Setup
    target: str
    entry: MethodConfig
    sources: tuple[LabelledSource, ...]

    @classmethod
    def of(cls, setup: Setup, target: str, entry: MethodConfig) -> EntryTuning:
        """Read the models and the images of the target's sources."""
        evaluation = setup.experiment.evaluation
        still = tuple(spec for spec in evaluation.streams if spec.shift is None)
        evaluation = evaluation.model_copy(update={"streams": still or (StreamSpec(kind="iid"),)})
        sources = []
        for name in setup.sources(target):
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
        return cls(setup, target, entry, tuple(sources))

    @property
    def title(self) -> str:
        """What is tuned for whom, for people."""
        return f"seed {self.setup.seed}: tuning {self.entry.label} for {self.target}"

    @property
    def asked(self) -> TuneConfig:
        """The option, and the values to choose from."""
        assert self.entry.tune is not None
        return self.entry.tune

    @property
    def batch_size(self) -> int:
        """The images of a batch."""
        return self.setup.experiment.evaluation.batch_size

    def build(self, models: Sequence[nn.Module], value: Any) -> Node:
        """Make a node of some of the sources' models, with the option at this value."""
        left = {s.name: s.model for s in self.sources if any(s.model is model for model in models)}
        return make_node(self.setup, self.entry, left, {self.asked.option: value})

    def trials(self) -> list[Trial]:
        """Return what is to be tried."""
        return trials(self.sources, self.asked.option, self.asked.values)

    def attempt(self, trial: Trial) -> float:
        """Return the score of a trial."""
        return attempt(trial, self.sources, self.build, self.batch_size)


def tune_entry(setup: Setup, target: str, entry: MethodConfig) -> Tuning:
    """Tune the option that an entry names for ``target``, trial by trial."""
    work = EntryTuning.of(setup, target, entry)
    step = setup.record.stage(work.title)
    return tune(
        work.sources,
        work.build,
        option=work.asked.option,
        values=work.asked.values,
        batch_size=work.batch_size,
        progress=lambda done, total: step(f"{done} of {total}", done, total),
    )


def entry_with(entry: MethodConfig, option: str, value: Any) -> dict[str, Any]:
    """Return the entry for a configuration: its settings, and the tuned option at a value."""
    kept = {key: given for key, given in entry.choices.items() if key != "tune"}
    return {"method": entry.method, **with_option(kept, option, value)}


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
