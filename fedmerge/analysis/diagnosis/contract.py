"""What an analysis receives and returns, and the registry of all analyses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.checks import check_weights
from fedmerge.merging.images import Given, collected, taken
from fedmerge.models.copies import faithful, unwrapped
from fedmerge.models.entries import entries, kinds
from fedmerge.models.heads import find_head, group_of
from fedmerge.models.inputs import Normalisation
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of
from fedmerge.models.plain import plain
from fedmerge.models.state import State, average, check_alike, without_wrappers
from fedmerge.registry import Needs, Registry
from fedmerge.tasks import MULTICLASS, Task, task_of
from fedmerge.tasks.pairs import label_fault

ANALYSES = Registry("analysis", "analysis", "fedmerge.analyses", any_task=False)
BATCH = 256
"""Images in a forward pass."""
SELDOM = ("settings", "inmerge")
"""Analyses that train or fuse many times: they are made only where they are named."""


@dataclass(frozen=True)
class Finding:
    """What an analysis found.

    tables: pandas frames by name; the first is the main one, ``frame``. sentence: what it says, decided by
    ``number``. arrays: further results that are no table, such as images, by name.
    """

    tables: Mapping[str, pd.DataFrame]
    sentence: str
    number: float
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """The main table."""
        return next(iter(self.tables.values()))


Levels = tuple[float, float, float, float, float]
"""Accuracy of the models, of the mean of their weights, the best one seen, the commonest class's; images."""


@dataclass(frozen=True)
class Score:
    """A model on labelled images: cross-entropy in nats, accuracy, and the share of finite logit rows."""

    loss: float
    accuracy: float
    finite: float = 1.0


@dataclass(frozen=True, eq=False)
class Subject:
    """The models of a diagnosis, and the images it looks at.

    models: two or more, by name, on one device; never changed. Most analyses want one architecture.
    images: N x C x H x W as the models take them. labels: N class indices, or as the models' task has
    them. owners: N, of which model each image is (an index), where hospitals have images of their own.
    raw, normalise: the images as uint8, and how they were normalised, for analyses that train. start: the
    weights from which all were trained. extra: further models to set beside them (merged, pooled), as
    states by name. blends: weighted means of the models, as of single batches at test time: by name, the
    models' weights in the encoder and in the head. head: the name of the classification head; None: found
    on two images. seed: of what is drawn.

    Raises FedMergeError for fewer than two models, models that are not alike, and labels or owners of another
    number than the images.
    """

    models: Mapping[str, nn.Module]
    images: Tensor | None = None
    labels: Tensor | None = None
    owners: Tensor | None = None
    raw: Tensor | None = None
    normalise: Normalisation | None = None
    start: State | None = None
    extra: Mapping[str, State] = field(default_factory=dict)
    blends: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    head: str | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        models: Mapping[str, nn.Module],
        images: Given | None = None,
        labels: Tensor | Sequence[int] | None = None,
        *,
        start: nn.Module | State | None = None,
        **further: Any,
    ) -> Subject:
        """Return the subject of models as they are: wrappers and reparametrised weights are taken off.

        images, labels: also in the other forms that ``fm.merge`` takes (``merging.images.collected``). Raises
        FedMergeError, too, for what is no network, weights, images or labels that are not finite, and
        images that a model does not take.
        """
        for name, model in models.items():
            if not isinstance(model, nn.Module):
                raise FedMergeError(f"'{name}' is a {type(model).__name__}: give networks, nn.Module.")
        given = {name: plain(unwrapped(model)) for name, model in models.items()}
        pictures, classes = collected(images, labels)
        for name, model in given.items():
            kinds(entries(model), name)
            check_weights(name, entries(model))
            if pictures is not None:
                pictures, logits = taken(model, pictures, name)
                if not bool(logits.isfinite().all()):
                    raise FedMergeError(
                        f"'{name}' answers the images with NaN or infinity, though its weights are finite: "
                        "leave it out, or train it again."
                    )
        begin = None if start is None else _state_of(start)
        return cls(given, pictures, classes, start=begin, **further)

    def on(self, device: str) -> Subject:
        """Return the subject with copies of its models on a device; itself where they are there."""
        if all(value.device == torch.device(device) for state in self.states for value in state.values()):
            return self
        return replace(self, models={n: faithful(m).to(device) for n, m in self.models.items()})

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise FedMergeError(f"an analysis compares two models or more, not {len(self.models)}.")
        kinds = {next((str(v.dtype) for v in s.values() if v.is_floating_point()), "") for s in self.states}
        if len(kinds) > 1:
            raise FedMergeError(f"the weights are of {' and '.join(sorted(kinds))}: convert them to one.")
        if self.alike:
            begin = {} if self.start is None else {"the start": self.start}
            beside = {**begin, **self.extra}
            check_alike([*self.names, *beside], [*self.states, *beside.values()])
        count = None if self.images is None else len(self.images)
        for what, of_each in (("labels", self.labels), ("owners", self.owners)):
            if of_each is not None and len(of_each) != count:
                raise FedMergeError(
                    f"there are {len(of_each)} {what} for {count or 0} images: give one each."
                )
        self._check_task()
        if count == 0:
            raise FedMergeError("there are no images to look at: give at least one.")

    def _check_task(self) -> None:
        """Raise FedMergeError for models of several tasks, and labels that are none of theirs."""
        tasks = {name: task_of(model).name for name, model in self.models.items()}
        if len(set(tasks.values())) > 1:
            each = ", ".join(f"'{name}' of {task}" for name, task in tasks.items())
            raise FedMergeError(f"the models are of different tasks: {each}. Compare models of one task.")
        if self.labels is None:
            return
        if self.task.many != (self.labels.ndim == 2):
            form = "a row of 0 and 1, a column a finding," if self.task.many else "one class"
            shape = " x ".join(map(str, self.labels.shape))
            raise FedMergeError(f"the labels are {shape}: models of {self.task.name} take {form} an image.")
        if len(self.labels) and self.labels.min() < 0:
            raise FedMergeError(f"a label is {int(self.labels.min())}: labels count from 0.")

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, in order."""
        return tuple(self.models)

    @cached_property
    def states(self) -> tuple[State, ...]:
        """The models' states, which share their memory."""
        return tuple(entries(model) for model in self.models.values())

    @cached_property
    def alike(self) -> bool:
        """Whether all models have the same entries in the same shapes."""
        shapes = [{key: value.shape for key, value in state.items()} for state in self.states]
        return all(each == shapes[0] for each in shapes)

    @cached_property
    def task(self) -> Task:
        """What the models' outputs mean."""
        return task_of(next(iter(self.models.values())))

    @cached_property
    def device(self) -> torch.device:
        """Where the models are."""
        return next((value.device for state in self.states for value in state.values()), torch.device("cpu"))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The keys of the parameters, in the order of the network; buffers are left out."""
        return tuple(name for name, _ in next(iter(self.models.values())).named_parameters())

    @cached_property
    def parts(self) -> dict[str, str]:
        """By key of a parameter, ``encoder`` or ``head``.

        Without a named head and without images the head is the module of the last parameter.
        """
        head = self.head_name if self.head or self.images is not None else ""
        head = head or self.parameters[-1].rpartition(".")[0]
        return {key: group_of(key, head) for key in self.parameters}

    @cached_property
    def head_name(self) -> str:
        """The name of the classification head."""
        return self.head or find_head(next(iter(self.models.values())), self.pictures[:2])

    @cached_property
    def pictures(self) -> Tensor:
        """The images on the models' device. Raises FedMergeError where there are none."""
        if self.images is None:
            raise FedMergeError("this analysis runs the models: give it images.")
        return self.images.to(self.device)

    @cached_property
    def classes(self) -> Tensor:
        """The labels on the models' device. Raises FedMergeError where there are none, or one is no class."""
        if self.labels is None:
            raise FedMergeError("this analysis counts right answers: give it the images' labels.")
        width = len(answers(next(iter(self.models.values())), self.pictures[:1])[0])
        if fault := label_fault(self.task, self.labels, width):
            raise FedMergeError(f"the labels {fault}.")
        return self.labels.to(self.device)

    def check_alike(self) -> None:
        """Raise FedMergeError where the models are not of one architecture."""
        check_alike(self.names, self.states)

    def mean(self) -> State:
        """Return the plain mean of the models' weights, batch-norm moments as those of the mixture."""
        return average(self.states)

    @cached_property
    def commonest(self) -> float:
        """The accuracy of giving every image the commonest class of them all, or every finding's answer."""
        return commonest(self.classes, self.task)

    def score(self, model: nn.Module) -> Score:
        """Return a model's loss and accuracy on all images."""
        return score(answers(model, self.pictures), self.classes, self.task)

    def network(self) -> nn.Module:
        """Return a copy of the first model, to be filled with other weights."""
        return faithful(next(iter(self.models.values())))

    def lacks(self, needs: Needs) -> str:
        """Return what an analysis needs and is not here, in words; "" where all is."""
        missing = {
            "images": (needs.fusion_images or needs.fusion_labels) and self.images is None,
            "the images' labels": needs.fusion_labels and self.labels is None,
            "the weights from which the models were trained": needs.shared_start and self.start is None,
        }
        return " and ".join(what for what, lacking in missing.items() if lacking)


def commonest(labels: Tensor, task: Task = MULTICLASS) -> float:
    """Return the accuracy of giving every image the commonest of the classes, or every finding's answer."""
    if task.many:
        share = labels.double().mean(0)
        return float(torch.maximum(share, 1 - share).mean())
    return float(labels.long().bincount().max()) / len(labels)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits N x C of images, in evaluation mode, in equal batches of at most ``BATCH``."""
    with evaluating(model):
        return torch.cat([logits_of(model(x), model).flatten(1) for x in batches(images)])


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """Return images in batches of at most ``BATCH`` that differ by one image at most."""
    return images.tensor_split(max(1, -(-len(images) // BATCH)))


def score(logits: Tensor, labels: Tensor, task: Task = MULTICLASS) -> Score:
    """Score logits N x C against labels: the share of right answers, of findings too, and the task's loss.

    A row that is not finite is wrong; the loss is NaN with one.
    """
    finite = logits.isfinite().all(1)
    hits = (task.predicted(logits) == labels).double().reshape(len(labels), -1).mean(1) * finite
    loss = task.loss(logits.double(), labels).item() if bool(finite.all()) else math.nan
    return Score(loss, hits.mean().item(), finite.double().mean().item())


def _state_of(given: nn.Module | State) -> State:
    return entries(plain(unwrapped(given))) if isinstance(given, nn.Module) else without_wrappers(given)
