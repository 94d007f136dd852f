"""Choosing an option of a test-time method on the source hospitals alone: each is held out once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.tasks import task_of
from fedmerge.tasks.scores import mean_where_defined
from fedmerge.testtime.contract import Node

TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, math.inf)
"""The candidates of the option ``temperature``; infinity is mean merging."""
FEWEST = 3
"""Sources that tuning takes: one is held out, and at least two are left to merge."""

Build = Callable[[Sequence[nn.Module], Any], Node]
"""``build(models, value)``: a new node over these models with the tuned option set to ``value``."""


@dataclass(frozen=True)
class LabelledSource:
    """A source model and labelled validation images of the hospital that trained it.

    images: N x C x H x W as the models take them, on the models' device; labels: N. orders: by the name of a
    stream, the N indices in the order in which the images arrive; without one, they come as they are.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    orders: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One value of the option at one held-out source, in one stream; without streams its name is empty."""

    value: Any
    held_out: str
    stream: str


@dataclass(frozen=True)
class Score:
    """Accuracy at one held-out source with one value of the option, averaged over the streams.

    Where models have another task than multiclass it is that task's score (``Task.headline``), and NaN at a
    source whose labels do not define it.
    """

    value: Any
    held_out: str
    accuracy: float


@dataclass(frozen=True)
class Tuning:
    """What was chosen and why. scores: every value at every held-out source, in the values' order."""

    option: str
    chosen: Any
    scores: tuple[Score, ...]

    @property
    def means(self) -> dict[Any, float]:
        """Accuracy by value, averaged over the held-out sources."""
        by_value: dict[Any, list[float]] = {}
        for score in self.scores:
            by_value.setdefault(score.value, []).append(score.accuracy)
        return {value: mean_where_defined(parts) for value, parts in by_value.items()}

    @property
    def table(self) -> dict[Any, dict[str, float]]:
        """Accuracy by value, then by held-out source."""
        rows: dict[Any, dict[str, float]] = {}
        for score in self.scores:
            rows.setdefault(score.value, {})[score.held_out] = score.accuracy
        return rows


def tune(
    sources: Sequence[LabelledSource],
    build: Build,
    *,
    option: str = "temperature",
    values: Sequence[Any] = TEMPERATURES,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Choose the value of ``option`` with which the other sources' models serve a held-out source best.

    Each source i plays the unseen hospital once: a node of the models j != i, new for each stream, meets i's
    validation images in batches, without their labels. With a_i(v) the accuracy there (or the score of the
    models' task), averaged over its streams, the choice is

        v* = argmax_v (1/M) sum_i a_i(v).

    Of values that are equally good the last one counts, numbers taken from small to large: of temperatures
    the largest, which is closest to mean merging. The hospital where the models are deployed has no part in
    it. What the hospitals shared before (federated rounds, a common start) does: a held-out source is not as
    unseen as a new hospital. No paper gives this protocol: the temperature of
    entropy-adaptive merging is published without a value.

    progress: called with (done, total) trials. Raises FedMergeError for fewer than 3 sources, names that are
    not distinct, no value, a source without images or with labels or an order of another length.
    """
    wanted = trials(sources, option, values)
    found: dict[Trial, float] = {}
    for trial in wanted:
        found[trial] = attempt(trial, sources, build, batch_size)
        if progress is not None:
            progress(len(found), len(wanted))
    return choose(option, found)


def trials(sources: Sequence[LabelledSource], option: str, values: Sequence[Any]) -> list[Trial]:
    """Return what ``tune`` tries: value by value, source by source, stream by stream. Raises as it does."""
    check_enough([source.name for source in sources], option)
    ordered = _ordered(values, option)
    for source in sources:
        _check(source)
    return [
        Trial(value, source.name, stream)
        for value in ordered
        for source in sources
        for stream in source.orders or ("",)
    ]


def attempt(trial: Trial, sources: Sequence[LabelledSource], build: Build, batch_size: int) -> float:
    """Return the score of the models' task (the share of images that are right) in one trial.

    It depends on nothing that was tried before: the node is new. Raises FedMergeError for a batch size
    below 1.
    """
    if batch_size < 1:
        raise FedMergeError(f"the batch size is {batch_size}; it must be at least 1.")
    (held_out,) = [source for source in sources if source.name == trial.held_out]
    node = build([source.model for source in sources if source is not held_out], trial.value)
    labels, answers = held_out.labels.cpu(), []
    order = held_out.orders.get(trial.stream, torch.arange(len(labels))).cpu()
    node.reset()
    for index in order.split(batch_size):
        logits, _ = node.observe(held_out.images[index.to(held_out.images.device)])
        answers.append(logits.cpu())
    return task_of(held_out.model).score(torch.cat(answers), labels[order])


def choose(option: str, found: Mapping[Trial, float]) -> Tuning:
    """Choose the value of the best mean, as ``tune`` says. found: the score of each trial, in their order.

    Raises FedMergeError where no score is defined.
    """
    streams: dict[tuple[Any, str], list[float]] = {}
    for trial, share in found.items():
        streams.setdefault((trial.value, trial.held_out), []).append(share)
    scores = [Score(*where, sum(shares) / len(shares)) for where, shares in streams.items()]
    means = Tuning(option, None, tuple(scores)).means
    top = max(means.values())
    if math.isnan(top):
        raise FedMergeError(
            f"'{option}' cannot be tuned: no source's validation images are of two kinds, such as with and "
            f"without a finding, so the score is not defined. Give more images, or set '{option}' yourself."
        )
    chosen = [value for value, mean in means.items() if math.isclose(mean, top, abs_tol=1e-12)][-1]
    return Tuning(option, chosen, tuple(scores))


def check_enough(names: Sequence[str], option: str) -> None:
    """Raise FedMergeError for sources with one name, and for fewer than tuning takes."""
    if len(set(names)) != len(names):
        raise FedMergeError("two sources have one name; give each a name of its own.")
    if len(names) < FEWEST:
        raise FedMergeError(
            f"'{option}' cannot be tuned on {len(names)} {'source' if len(names) == 1 else 'sources'}: with "
            f"one held out at most one model is left, and merging one model tunes nothing. Take at least "
            f"{FEWEST} hospitals that train, or set '{option}' yourself."
        )


def as_text(value: Any) -> str:
    """A value of an option as it is written in a configuration: ``0.1``, ``.inf``, ``entropy``, ``null``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value if isinstance(value, str) else yaml.safe_dump(value).split("\n")[0]


def _ordered(values: Sequence[Any], option: str) -> list[Any]:
    distinct = list(dict.fromkeys(values))
    if not distinct:
        raise FedMergeError(f"there is no value of '{option}' to choose from; give at least one.")
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    return sorted(distinct) if numbers else distinct


def _check(source: LabelledSource) -> None:
    number = len(source.images)
    if number == 0:
        raise FedMergeError(
            f"source '{source.name}' has no validation images to be held out with; leave it out."
        )
    lengths = {"labels": len(source.labels)}
    lengths |= {f"indices in the stream {name}": len(order) for name, order in source.orders.items()}
    for what, length in lengths.items():
        if length != number:
            raise FedMergeError(
                f"source '{source.name}' has {number} validation images, but {length} {what}; give one for "
                "each image."
            )
