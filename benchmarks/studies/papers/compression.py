"""Table 7 of Model Fusion via Neuron Interpolation: ResNet-18 compressed to half its width.

Wide parents that began apart are fused into a narrow network, and one that begins at random is distilled from
the same parents on the same images; no label is used. Both know the images of a fusion set alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.studies.papers.cells import Row
from benchmarks.studies.papers.images import SIDE, Pictures
from benchmarks.studies.papers.networks import Sizes, seen
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build
from fedmerge.seeding import derive

NETWORK = "resnet18"
WIDE, NARROW = 16, 8
"""Channels of the stem; He et al.'s ResNet-18 has 64."""
SETTINGS = (("digits", "two parents"), ("cells", "two parents"), ("digits", "one parent"))
SPLITS = {"two parents": "skewed", "one parent": "one"}
"""Two parents on skewed halves, or one that saw all images."""
KF, GRADIENT, DISTILLED, AFTER = "kf", "kf-gradient", "distill", "distill from kf"
LABELS = "trained on labels"


def setting_of(data: str, parents: str) -> str:
    """Name a setting: a data set and the number of parents."""
    return f"{data}, {parents}"


def blank(classes: int, seed: int) -> nn.Module:
    """Return the narrow network at random, with other draws than those of any parent."""
    options = {"width": NARROW}
    spec = ModelSpec(name=NETWORK, in_channels=3, n_classes=classes, image_size=SIDE, options=options)
    return build(spec, derive(seed, "student"))


def compressed(
    sizes: Sizes,
    setting: str,
    parents: Sequence[nn.Module],
    narrow: Mapping[str, nn.Module],
    found: Pictures,
    seed: int,
) -> Iterator[Row]:
    """Accuracy and CPU seconds of each way to the narrow network.

    narrow: ``blank``, at which distillation begins; ``best``, trained on all training images by label.
    """
    fusion, (x, y) = seen(found.val)[0][: sizes.fusion], seen(found.test)
    logits = [answers(parent, x) for parent in parents]
    own = [score(each, y).accuracy for each in logits]
    fixed = {
        "parents": sum(own) / len(own),
        "ensemble": score(torch.stack(logits).mean(0), y).accuracy,
        LABELS: score(answers(narrow["best"], x), y).accuracy,
    }
    for case, value in fixed.items():
        yield Row("compressed", setting, seed, case, "accuracy", value)
    made: dict[str, nn.Module] = {}
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        KF: ("kf", {}), GRADIENT: ("kf-gradient", {}),
        DISTILLED: ("distill", {"student": "into"}), AFTER: ("distill", {"student": "into"}),
    }  # fmt: skip
    for case, (method, options) in ways.items():
        into = made[KF] if case == AFTER else narrow["blank"]
        began = time.process_time()
        made[case] = merge(list(parents), method, data=fusion, into=into, seed=seed, **options).model
        yield Row("compressed", setting, seed, case, "seconds", time.process_time() - began)
        yield Row("compressed", setting, seed, case, "accuracy", score(answers(made[case], x), y).accuracy)
