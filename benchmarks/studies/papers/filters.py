"""In-Model Merging: alike filters of networks with a pretrained start, and what merging them changes.

Phase 1 trains a network from its start on a medical set; phase 2 goes on from there, on the same batches,
without merging (``plain``), with it (``inmerge``) and with random partners (``random``). The threshold is
the 0.9-quantile of the merged layers' pair cosines, so that something is merged; the paper's is 0.3.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.images import Pictures, pictures
from benchmarks.studies.papers.networks import HALF, NETWORKS, Sizes, Workshop, begun
from fedmerge.analysis.diagnosis.contract import answers
from fedmerge.analysis.diagnosis.features import cost
from fedmerge.analysis.diagnosis.filters import redundancy
from fedmerge.analysis.filters import filter_frame, pair_cosines
from fedmerge.analysis.metrics import METRICS, Predictions
from fedmerge.data import Appearance, Split, scanner
from fedmerge.models import ModelSpec, build
from fedmerge.seeding import Draws
from fedmerge.training import InMergeOptions, Segment, TrainingOptions, fit
from fedmerge.training.conv_layers import select_convs

SIZES = Sizes(images=600, tested=400, epochs=4, start=(1500, 3))
SETS = ("pneumonia", "breast", "retina", "cells", "melanoma")
FAMILIES = {"vgg11": SETS, "resnet18": ("breast",)}
"""Families with their sets; a start from 50 classes of small photographs."""
LARGE = "efficientnet-lite0"
"""From ImageNet at 64 px, with one set and fewer images."""
RUNS = ("plain", "inmerge", "random")
RATE, QUANTILE, PAPER = 0.02, 0.9, 0.3


def cells(shop: Workshop, seeds: int) -> Iterator[Cell]:
    """Yield a cell for the starts, and for each set, network and seed; all seeds of one before the next."""
    yield Cell("starts", partial(_starts, seeds))
    pairs = [("breast", LARGE), *((data, name) for name, sets in FAMILIES.items() for data in sets)]
    for data, network in pairs:
        for seed in range(seeds):
            yield Cell(f"{data}-{network}-{seed}", partial(_cell, shop, data, network, seed))


def _cell(shop: Workshop, data: str, network: str, seed: int) -> Iterator[Row]:
    large = network == LARGE
    most = min(shop.sizes.images // 2, 100 if large else 300)
    found, epochs = pictures(data, seed, most, shop.sizes.tested), shop.sizes.epochs - large * 2
    if large:
        found = found._replace(**{part: _larger(getattr(found, part)) for part in ("train", "val", "test")})
    model, setting = started(shop, network, found.classes, seed), f"{data} {network}"
    for number in range(epochs):
        _epoch(model, found.train, number, 2 * epochs, None, seed)
    kind = "all" if large else "spatial"
    tau = max(-1.0, threshold(model, kind))
    yield Row("threshold", setting, seed, "", "tau", tau)
    yield from _seen(model, found, setting, seed, "start", kind, 0.0)
    for run in RUNS:
        options = None if run == "plain" else _options(tau, kind, run)
        own, total = copy.deepcopy(model), 0
        for number in range(epochs):
            result = _epoch(own, found.train, epochs + number, 2 * epochs, options, seed)
            total += sum(result.values())
            yield Row("merges", setting, seed, run, "merges", sum(result.values()), number + 1)
            yield from _ranks(own, setting, seed, run, kind, number + 1)
        yield from _seen(own, found, setting, seed, run, kind, total)
        same = _size(own, found) == _size(model, found)
        yield Row("size", setting, seed, run, "unchanged", float(same))


def started(shop: Workshop, network: str, classes: int, seed: int) -> nn.Module:
    """Return a network at its start, with a new head."""
    if network in NETWORKS:
        return begun(network, classes, seed, shop.start(network, seed))
    spec = ModelSpec(name=network, in_channels=3, n_classes=classes, image_size=64, pretrained=True)
    return build(spec, seed)


def threshold(model: nn.Module, kind: str) -> float:
    """Return the 0.9-quantile of the pair cosines of the layers that would be merged."""
    found = torch.cat([pair_cosines(conv.weight) for conv in select_convs(model, kind, None).values()])
    ordered = found.sort().values
    return float(ordered[min(int(QUANTILE * len(ordered)), len(ordered) - 1)])


def _options(tau: float, kind: str, run: str) -> InMergeOptions:
    partner = "random" if run == "random" else "similar"
    return InMergeOptions.model_validate({"tau": tau, "layers": kind, "bias": "follow", "partner": partner})


def _epoch(
    model: nn.Module, split: Split, number: int, whole: int, inmerge: InMergeOptions | None, seed: int
) -> dict[str, int]:
    options: dict[str, Any] = {"lr": RATE, "batch_size": min(32, len(split)), "inmerge": inmerge}
    chosen, span = TrainingOptions.model_validate(options), (number / whole, (number + 1) / whole)
    draws = Draws(seed, round=number)
    done = fit(model, split.images, split.labels, chosen, normalise=HALF, draws=draws, segment=Segment(span))
    return done.merges


def _seen(
    model: nn.Module, found: Pictures, setting: str, seed: int, run: str, kind: str, merges: float
) -> Iterator[Row]:
    """Scores on images as they are and with noise, and what the merged layers' filters and maps are like."""
    images, labels = found.test.images, found.test.labels
    noisy = scanner.apply(images, [Appearance(kind="noise", severity=3)], seed, "test")
    for what, given in (("", images), (" noise", noisy)):
        shown = Predictions.of(answers(model, HALF(given)), labels)
        for metric in ("auroc", "balanced_accuracy"):
            yield Row("scores", setting, seed, run, f"{metric}{what}", METRICS[metric].call(shown))
    layers = list(select_convs(model, kind, None))
    maps = redundancy(model, HALF(images[:128]))
    yield Row(
        "filters", setting, seed, run, "redundancy", _mean([maps[name] for name in layers if name in maps])
    )
    frame = filter_frame(model, PAPER).set_index("layer").loc[layers]
    yield Row("filters", setting, seed, run, "above the paper's threshold", float(frame["share"].mean()))
    yield Row("filters", setting, seed, run, "rank", float((frame["rank"] / frame["filters"]).mean()))
    yield Row("filters", setting, seed, run, "merges", merges)


def _ranks(model: nn.Module, setting: str, seed: int, run: str, kind: str, epoch: int) -> Iterator[Row]:
    frame = filter_frame(model).set_index("layer").loc[list(select_convs(model, kind, None))]
    yield Row("rank", setting, seed, run, "rank", float((frame["rank"] / frame["filters"]).mean()), epoch)


def _starts(seeds: int) -> Iterator[Row]:
    """Alike pairs by layer in EfficientNet-Lite0 with ImageNet's weights, and random ones by the seed."""
    spec = ModelSpec(name=LARGE, in_channels=3, n_classes=2, image_size=64)
    for seed in range(seeds):
        pretrained = spec.model_copy(update={"pretrained": True})
        for run, chosen in (("start", pretrained), ("random weights", spec)):
            if run == "start" and seed:
                continue
            model = build(chosen, seed)
            frame = filter_frame(model, PAPER).set_index("layer").loc[list(select_convs(model, "all", 0))]
            for depth, row in enumerate(frame.to_dict("records")):
                yield Row("pairs", LARGE, seed, run, "share", row["share"], depth)
                yield Row("pairs", LARGE, seed, run, "rank", row["rank"] / row["filters"], depth)


def _size(model: nn.Module, found: Pictures) -> tuple[float, float]:
    """Parameters, and operations of an image."""
    costs = cost(model, HALF(found.test.images[:2]), timed=False)
    return costs["parameters"], costs["gflops"]


def _larger(split: Split) -> Split:
    """64 px: every pixel four times."""
    images: Tensor = split.images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return Split(images, split.labels)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
