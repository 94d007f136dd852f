"""Table 7 of Model Fusion via Neuron Interpolation: ResNet-18 compressed to half its width.

Wide parents that began apart are fused into a narrow network, and one that begins at random is distilled from
the same parents on the same images; no label is used. Both know the images of a fusion set alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.studies.papers.cells import Row
from benchmarks.studies.papers.images import SIDE, Pictures
from benchmarks.studies.papers.networks import Sizes, seen
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.data import Split
from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build
from fedmerge.seeding import derive

NETWORK = "resnet18"
WIDE, NARROW = 8, 4
"""Channels of the stem; He et al.'s ResNet-18 has 64."""
SETTINGS = (("digits", "two parents"), ("cells", "two parents"), ("digits", "one parent"))
SPLITS = {"two parents": "skewed", "one parent": "one"}
"""Two parents on skewed halves, or one that saw all images."""
KF, GRADIENT, DISTILLED, AFTER = "kf", "kf-gradient", "distill", "distill from kf"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    KF: ("kf", {}), GRADIENT: ("kf-gradient", {}),
    DISTILLED: ("distill", {"student": "into"}), AFTER: ("distill", {"student": "into"}),
}  # fmt: skip
"""The method behind each way to the narrow network."""
LABELS = "trained on labels"


def setting_of(data: str, parents: str) -> str:
    """Name a setting: a data set and the number of parents."""
    return f"{data}, {parents}"


def plain(found: Pictures) -> Pictures:
    """Return images whose channels lie apart in memory.

    Files of images have them side by side, which takes other kernels (``models.narrow_strides`` says which of
    them is unsound): the committed rows are of this layout.
    """
    parts = (Split(each.images.contiguous(), each.labels) for each in (found.train, found.val, found.test))
    return Pictures(*parts, found.classes)


def blank(classes: int, seed: int) -> nn.Module:
    """Return the narrow network at random, with other draws than those of any parent."""
    options = {"width": NARROW}
    spec = ModelSpec(name=NETWORK, in_channels=3, n_classes=classes, image_size=SIDE, options=options)
    return build(spec, derive(seed, "student"))


def given(
    setting: str, parents: Sequence[nn.Module], best: nn.Module, found: Pictures, seed: int
) -> Iterator[Row]:
    """Accuracy of the parents, of their ensemble, and of the narrow network trained on images by label."""
    x, y = seen(found.test)
    logits = [answers(parent, x) for parent in parents]
    own = [score(each, y).accuracy for each in logits]
    accuracy = {
        "parents": sum(own) / len(own),
        "ensemble": score(torch.stack(logits).mean(0), y).accuracy,
        LABELS: score(answers(best, x), y).accuracy,
    }
    for case, value in accuracy.items():
        yield Row("compressed", setting, seed, case, "accuracy", value)


def compressed(
    sizes: Sizes, setting: str, parents: Sequence[nn.Module], student: nn.Module, found: Pictures, seed: int
) -> Iterator[Row]:
    """Accuracy and CPU seconds of KF and of distillation, which begins at the student."""
    for case, into in ((KF, student), (DISTILLED, student)):
        made, seconds = _made(case, parents, into, found, sizes, seed)
        yield from _told(setting, case, made, seconds, found, seed)


def further(
    sizes: Sizes, setting: str, parents: Sequence[nn.Module], student: nn.Module, found: Pictures, seed: int
) -> Iterator[Row]:
    """The same of gradient KF, and of distillation that begins at KF's network."""
    linear, _ = _made(KF, parents, student, found, sizes, seed)
    for case, into in ((GRADIENT, student), (AFTER, linear)):
        made, seconds = _made(case, parents, into, found, sizes, seed)
        yield from _told(setting, case, made, seconds, found, seed)


def _made(
    case: str, parents: Sequence[nn.Module], into: nn.Module, found: Pictures, sizes: Sizes, seed: int
) -> tuple[nn.Module, float]:
    method, options = WAYS[case]
    fusion = seen(found.val)[0][: sizes.fusion]
    began = time.process_time()
    made = merge(list(parents), method, data=fusion, into=into, seed=seed, **options).model
    return made, time.process_time() - began


def _told(
    setting: str, case: str, made: nn.Module, seconds: float, found: Pictures, seed: int
) -> Iterator[Row]:
    x, y = seen(found.test)
    yield Row("compressed", setting, seed, case, "seconds", seconds)
    yield Row("compressed", setting, seed, case, "accuracy", score(answers(made, x), y).accuracy)
