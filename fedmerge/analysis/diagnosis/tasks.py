"""Task merging: models of different tasks under one encoder, each task with its own head."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject, answers, commonest, score
from fedmerge.analysis.diagnosis.words import chance, points, share
from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, merge
from fedmerge.models.copies import faithful, fill
from fedmerge.models.heads import group_of
from fedmerge.models.state import State
from fedmerge.registry import Needs
from fedmerge.seeding import generator
from fedmerge.tasks.pairs import label_fault

ALONE = "alone"
METHODS = ("mean", "task-arithmetic", "ties", "rebasin", "kf", "ensemble-logits", "ensemble-features")


@ANALYSES.method(
    "tasks",
    title="Tasks under one encoder",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, fusion_labels=True),
)
def tasks(subject: Subject, *, methods: tuple[str, ...] = METHODS) -> Finding:
    """Merge the encoders of all models and measure each task, a model's own images, with that model's head.

    Task m are the images that model m owns (``subject.owners``; without owners, all images are every
    model's). For task m every model gets head m, and the models are merged by each method; the paper does not
    say how it handles heads, and its numbers fit this. Models may have other classes, but need one encoder.
    Fusion images, where a method needs some, are half of the task's, drawn by the seed, without labels; the
    other half measures.
    Task vectors need ``subject.start``. Table ``tasks``: task, method, accuracy; ``alone`` is the model
    itself, and the name of another model is that encoder under head m. A method that refuses the models has
    no row.
    """
    rows: list[dict[str, Any]] = []
    common: list[float] = []
    measured_images = 0
    for number, task in enumerate(subject.names):
        here = (
            torch.arange(len(subject.pictures))
            if subject.owners is None
            else (subject.owners == number).nonzero()[:, 0]
        )
        if len(here) < 4:
            continue
        drawn = torch.randperm(len(here), generator=generator(subject.seed, "tasks", site=task))
        given, measured = (here[part].to(subject.device) for part in drawn.tensor_split(2))
        under = _under_head(subject, number)
        labels = _labels(subject, task, measured)

        def accuracy(model: nn.Module, measured: Tensor = measured, labels: Tensor = labels) -> float:
            return score(answers(model.to(subject.device), subject.pictures[measured]), labels).accuracy

        common.append(commonest(labels))
        measured_images += len(labels)
        rows.append({"task": task, "method": ALONE, "accuracy": accuracy(subject.models[task])})
        rows += [
            {"task": task, "method": name, "accuracy": accuracy(model)}
            for name, model in zip(subject.names, under, strict=True) if name != task
        ]  # fmt: skip
        start = None if subject.start is None else _with_head(subject, subject.start, number)
        for method in methods:
            made = _merged(under, method, subject.pictures[given], start, subject)
            if made is not None:
                rows.append({"task": task, "method": method, "accuracy": accuracy(made)})
    if not rows:
        raise FedMergeError(
            "no model owns four images or more: give owners=, the model that each image is of."
        )
    frame = pd.DataFrame(rows)
    return Finding({"tasks": frame}, *_said(frame, methods, statistics.fmean(common), measured_images))


def _under_head(subject: Subject, number: int) -> list[nn.Module]:
    """All models with the head of model ``number``, as networks of its architecture."""
    network = list(subject.models.values())[number]
    return [fill(faithful(network), _with_head(subject, state, number)) for state in subject.states]


def _with_head(subject: Subject, state: State, number: int) -> State:
    own = subject.states[number]
    heads = {key: value for key, value in own.items() if group_of(key, subject.head_name) == "head"}
    encoder = {key: value for key, value in state.items() if group_of(key, subject.head_name) == "encoder"}
    if {k: v.shape for k, v in encoder.items()} != {k: v.shape for k, v in own.items() if k not in heads}:
        raise FedMergeError(
            "the encoders of the tasks differ: task merging needs one architecture but for the heads."
        )
    return {key: heads.get(key, encoder.get(key, value)) for key, value in own.items()}


def _labels(subject: Subject, task: str, at: Tensor) -> Tensor:
    if subject.labels is None:
        raise FedMergeError("task merging counts right answers: give it the images' labels.")
    labels = subject.labels.to(subject.device)[at]
    width = answers(subject.models[task], subject.pictures[:1]).shape[1]
    if fault := label_fault(subject.task, labels, width):
        raise FedMergeError(f"labels of images of '{task}' {fault}.")
    return labels


def _merged(
    models: list[nn.Module], method: str, images: Tensor, start: State | None, subject: Subject
) -> nn.Module | None:
    if FUSION[method].needs.shared_start and start is None:
        return None
    more: dict[str, Any] = {"start": start} if FUSION[method].needs.shared_start else {}
    try:
        return merge(models, method, names=subject.names, data=images, seed=subject.seed, **more).model
    except FedMergeError:
        return None


def _said(frame: pd.DataFrame, methods: tuple[str, ...], common: float, images: int) -> tuple[str, float]:
    means = frame.groupby("method", sort=False)["accuracy"].mean()
    merged = means[[name for name in methods if name in means and not name.startswith("ensemble")]]
    alone = float(means[ALONE])
    best = str(merged.idxmax())
    lost = alone - float(merged.max())
    text = f"Over all tasks the models alone have {share(alone)} accuracy{chance(alone, common, images)}, "
    text += f"one encoder for all by {best}, with each model's own head, {share(merged.max())}: "
    return f"{text}{points(lost)} lost." if lost >= 0.0005 else f"{text}nothing is lost.", lost
