"""Weights against features: averaging models, or averaging what they answer, with more and more of them."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Levels, Subject, answers, commonest, score
from fedmerge.analysis.diagnosis.words import chance, points, share
from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, merge
from fedmerge.merging.ensembles import FeatureEnsemble
from fedmerge.registry import Needs
from fedmerge.seeding import generator

COUNTS = (2, 3, 5, 7, 10)
PERFORMANCE = "members"
"""The mean accuracy of the models themselves."""
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("mean", "mean", {}),
    ("greedy", "greedy", {}),
    ("greedy-v1", "greedy-v1", {}),
    ("greedy-v2", "greedy-v2", {}),
    ("ensemble-logits", "ensemble-logits", {}),
    ("ensemble-features", "ensemble-features", {}),
    ("ensemble-greedy", "ensemble-greedy", {}),
    ("ensemble-greedy:features", "ensemble-greedy", {"of": "features"}),
)
"""Label, fusion method and options of each row."""


@ANALYSES.method(
    "features",
    title="Averaging weights against averaging features",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, fusion_labels=True),
    misfits={},
)
def features(subject: Subject, *, counts: tuple[int, ...] = COUNTS, timed: bool = True) -> Finding:
    """Merge and ensemble the first 2, 3, 5, 7 and 10 models (``counts``, as far as there are, and all).

    Half of the images, drawn by the seed, choose members of the greedy soups; the other half gives accuracy
    and loss. Table ``features``: models, method, accuracy, loss, gap (accuracy below the logit ensemble of
    the same models), parameters (those that must be kept), gflops (of one image, as
    ``torch.utils.flop_counter`` counts a multiplication and an addition as two), ms (an image of a batch,
    median of five; only ``timed``) and the accuracy of the ``commonest`` class. The row ``members`` is the
    mean of the models' own scores at the cost of one. A method that cannot take these models has no row.
    """
    subject.check_alike()
    order = torch.randperm(len(subject.pictures), generator=generator(subject.seed, "features"))
    half = len(order) // 2
    if half < 2:
        raise FedMergeError("half of the images choose, the other half measures: give at least four.")
    chosen, kept = (part.to(subject.device) for part in (order[:half], order[half:]))
    own = [
        score(answers(model, subject.pictures[kept]), subject.classes[kept], subject.task)
        for model in subject.models.values()
    ]
    one = cost(next(iter(subject.models.values())), subject.pictures[kept], timed)
    rows = []
    for number in sorted({count for count in (*counts, len(own)) if 2 <= count <= len(own)}):
        accuracy = statistics.fmean(each.accuracy for each in own[:number])
        loss = statistics.fmean(each.loss for each in own[:number])
        rows.append({"models": number, "method": PERFORMANCE, "accuracy": accuracy, "loss": loss} | one)
        few = dict(list(subject.models.items())[:number])
        for label, method, options in METHODS:
            fused = _fused(few, method, options, subject, chosen)
            if fused is not None:
                found = score(answers(fused, subject.pictures[kept]), subject.classes[kept], subject.task)
                row = {"models": number, "method": label, "accuracy": found.accuracy, "loss": found.loss}
                rows.append(row | cost(fused, subject.pictures[kept], timed))
    frame = pd.DataFrame(rows)
    best = frame[frame["method"] == "ensemble-logits"].set_index("models")["accuracy"]
    frame.insert(4, "gap", frame["models"].map(best) - frame["accuracy"])
    frame = frame.assign(commonest=commonest(subject.classes[kept], subject.task), images=len(kept))
    return Finding({"features": frame}, *_said(frame))


def levels(frame: pd.DataFrame) -> Levels:
    """Return the levels of ``why``; the best is that of all methods."""
    last = frame[frame["models"] == frame["models"].max()]
    by = last.set_index("method")["accuracy"]
    beside = last.iloc[0]
    return by[PERFORMANCE], by["mean"], by.max(), beside["commonest"], beside["images"]


def cost(model: nn.Module, images: Tensor, timed: bool = True, batch: int = 64) -> dict[str, float]:
    """Return parameters kept, GFLOPs of an image, milliseconds of an image in a batch (NaN if not timed)."""
    from torch.utils.flop_counter import (
        FlopCounterMode,
    )  # slow to import, and a run without analysis does without

    x = images[:batch]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        answers(model, x[:1])
    seconds = [_seconds(model, x) for _ in range(6 if timed else 0)][1:]
    return {
        "parameters": sum(value.numel() for value in _kept(model)),
        "gflops": counter.get_total_flops() / 1e9,
        "ms": 1000 * statistics.median(seconds) / len(x) if seconds else torch.nan,
    }


def _kept(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that a prediction reads: of a network that lends its head to an ensemble, the head's."""
    if isinstance(model, FeatureEnsemble):
        return {*model.models.parameters(), *model.head_model.get_submodule(model.head).parameters()}
    return set(model.parameters())


def _seconds(model: nn.Module, x: Tensor) -> float:
    began = time.perf_counter()
    answers(model, x)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - began


def _fused(
    models: dict[str, nn.Module], method: str, options: dict[str, Any], subject: Subject, chosen: Tensor
) -> nn.Module | None:
    given: dict[str, Any] = {"data": subject.pictures[chosen]}
    if FUSION[method].needs.score:
        given["labels"] = subject.classes[chosen]
    try:
        made = merge(list(models.values()), method, names=list(models), seed=subject.seed, **given, **options)
    except FedMergeError:
        return None
    return made.model.to(subject.device)


def _said(frame: pd.DataFrame) -> tuple[str, float]:
    wide = frame.pivot_table(index="models", columns="method", values="accuracy", sort=True)
    if not {"mean", "ensemble-logits"} <= set(wide):
        raise FedMergeError("neither mean nor ensemble can be made of these models: see fedmerge merge.")
    gaps = wide["ensemble-logits"] - wide["mean"]
    last = int(gaps.index[-1])
    gap = float(gaps.loc[last])
    text = f"With {last} models the mean of the weights is {_beside(gap)} the ensemble of the logits"
    if len(gaps) > 1:
        text += f", with {gaps.index[0]} {_beside(float(gaps.iloc[0]))} it"
    models, mean, _, *beside = levels(frame)
    text += f"; the models have {share(models)}{chance(models, *beside)}, their mean {share(mean)}"
    return f"{text}. The ensemble costs {last} passes, the mean one.", gap


def _beside(gap: float) -> str:
    """``2.1 points below``, ``0.4 points above``, ``as good as``."""
    if abs(gap) < 0.0005:
        return "as good as"
    return f"{points(abs(gap))} {'below' if gap > 0 else 'above'}"
