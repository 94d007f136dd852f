"""Rethinking Weight-Averaged Model-merging: averages of weights and of features, templates, magnification.

Up to ten models begin at one start, and differ in the order of their batches (and, ``own heads``, in their
initial head). ``tiny`` is 20 classes of small photographs, drawn by the seed: the templates' second set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.papers import depths, theorem
from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.images import Pictures, pictures
from benchmarks.studies.papers.networks import LAYERS, Sizes, Workshop, begun, seen
from fedmerge.analysis.diagnosis import ANALYSES, Subject
from fedmerge.analysis.diagnosis.contract import score
from fedmerge.analysis.diagnosis.magnification import entries_of, magnified
from fedmerge.models.entries import entries
from fedmerge.models.heads import features

SIZES = Sizes(images=400, tested=250, epochs=4, start=(1500, 3))
MAIN = "digits"
"""The set on which networks are compared, magnified and merged with other tasks."""
DEPTHS = ("tiny-vit", "vgg11", "small-cnn-plain", "vgg19-plain")
"""Further networks on ``MAIN``."""
PAPERS = "vgg11-plain"
"""The network most like the paper's VGG-19 without batch norm; others are averaged up to ``FEW`` models."""
FEW = 3
SETS = ("cells", "retina")
"""Further sets, with ``PAPERS``."""
FACTORS = (
    *(0.01, 1.0, 10.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0, 130.0),
    *(140.0, 150.0, 160.0, 170.0, 180.0, 190.0, 200.0, 220.0, 250.0),
)
"""Dense where 17 to 19 layers overflow float32."""
TABLE8 = {
    "resnet18": (1.82, 11.7), "resnet34": (3.66, 21.8), "resnet50": (4.09, 25.6), "resnet101": (7.83, 44.5),
    "resnet152": (11.58, 60.2), "densenet121": (2.88, 8.0), "densenet161": (7.81, 28.7),
    "densenet169": (3.36, 14.3), "densenet201": (4.37, 20.0), "vgg11": (7.63, 132.9), "vgg13": (11.34, 133.0),
    "vgg16": (15.5, 138.4), "vgg19": (19.6, 143.7), "vit_b_16": (17.6, 86.4),
}  # fmt: skip
"""Of Table 8: GFLOPs (a multiplication and an addition as one) and millions of parameters."""
TASKS = ("cells", "retina", "pneumonia", "pacs_photo")
MERGED = {"tiny": 10}
"""The class whose template is merged with that of class 0."""
AVERAGED = 3
"""Models of a magnification."""


def cells(shop: Workshop, seeds: int) -> Iterator[Cell]:
    """Yield a cell for each question, network, data and seed; all seeds of one before the next."""
    asked: dict[str, Callable[[int], Iterable[Row]]] = {
        "templates": partial(_templates, shop),
        f"{MAIN}-{PAPERS}": partial(_averages, shop, MAIN, PAPERS),
        "magnified-vgg19-plain": partial(_magnified, shop, "vgg19-plain"),
        "tasks": partial(_tasks, shop, PAPERS),
        **{f"{MAIN}-{network}": partial(_averages, shop, MAIN, network) for network in DEPTHS},
        **{f"{data}-{PAPERS}": partial(_averages, shop, data, PAPERS) for data in SETS},
        "own-heads": partial(_averages, shop, MAIN, PAPERS, own=True),
        **{
            f"depth-{data}-{network}-{kind.replace(',', '').replace(' ', '-')}": partial(
                _depth, shop, data, network, kind
            )
            for kind, (_, _, sets) in depths.KINDS.items()
            for data in sets
            for network in depths.NORMED
        },
    }
    yield Cell("sizes", _sizes)
    for name, make in asked.items():
        for seed in range(seeds):
            yield Cell(f"{name}-{seed}", partial(make, seed))
    yield from theorem.cells(shop, MAIN, seeds)


def _sizes() -> Iterator[Row]:
    """Parameters and multiplications of torchvision's networks at 224 px, without memory or weights."""
    for name in TABLE8:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model = getattr(torchvision.models, name)().eval()
            model(torch.empty(1, 3, 224, 224))
        yield Row("sizes", name, 0, "", "gflops", counter.get_total_flops() / 2e9)
        yield Row("sizes", name, 0, "", "parameters", sum(each.numel() for each in model.parameters()) / 1e6)


def models_of(
    shop: Workshop,
    data: str,
    network: str,
    seed: int,
    own: bool = False,
    most: int | None = None,
    **more: Any,
) -> tuple[dict[str, nn.Module], Pictures]:
    """Return the models, trained alike but for the order of batches, and their images. more: of training."""
    found = pictures(data, seed, shop.sizes.images, shop.sizes.tested)
    names = [f"model {number}" for number in range(min(most or shop.sizes.models, shop.sizes.models))]
    models = {
        name: shop.tuned(
            network, data, found.train, found.classes, seed, site=name, head=name if own else "", **more
        )
        for name in names
    }
    return models, found


def _averages(shop: Workshop, data: str, network: str, seed: int, own: bool = False) -> Iterator[Row]:
    models, found = models_of(shop, data, network, seed, own, None if network == PAPERS else FEW)
    x, y = (torch.cat(both) for both in zip(seen(found.val), seen(found.test), strict=True))
    x, y = x[-shop.sizes.tested * 2 :], y[-shop.sizes.tested * 2 :]
    begin = {**entries(begun(network, found.classes, seed, shop.start(network, seed)))}
    subject = Subject.of(models, x, y, start=begin, seed=seed)
    setting = f"{data} {network}" + (" own heads" if own else "")
    frame = ANALYSES["features"].call(subject, timed=False).frame
    for row in frame.to_dict("records"):
        for metric in ("accuracy", "loss", "parameters", "gflops", "ms"):
            yield Row("averages", setting, seed, row["method"], metric, row[metric], row["models"])
    drift = ANALYSES["drift"].call(subject).tables
    for row in drift["parts"].to_dict("records"):
        for metric in ("angle", "task_angle", "scale", "retained"):
            yield Row("moved", setting, seed, row["part"], metric, row[metric], LAYERS.get(network, 0))
    yield Row("commonest", setting, seed, "", "accuracy", subject.commonest)


def _depth(shop: Workshop, data: str, network: str, kind: str, seed: int) -> Iterator[Row]:
    own, more, _ = depths.KINDS[kind]
    models, _ = models_of(shop, data, network, seed, own, FEW, **more)
    return depths.gaps(shop, data, network, kind, models, seed)


def _magnified(shop: Workshop, network: str, seed: int) -> Iterator[Row]:
    models, found = models_of(shop, MAIN, network, seed, most=AVERAGED)
    x, y = (part[:100] for part in seen(found.test))
    tables = ANALYSES["magnification"].call(Subject.of(models, x, y), factors=FACTORS).tables
    setting = f"{MAIN} {network}"
    for row in tables["magnification"].to_dict("records"):
        for metric in ("accuracy", "finite", "largest"):
            case = f"{row['who']} {row['precision']}"
            yield Row("magnified", setting, seed, case, metric, row[metric], row["factor"])
    for factor in FACTORS:
        for precision, dtype in (("float32", torch.float32), ("exact", torch.float64)):
            value = score(_feature_average(list(models.values()), factor, dtype, x), y).accuracy
            yield Row("magnified", setting, seed, f"feature ensemble {precision}", "accuracy", value, factor)
    for depth, row in enumerate(tables["bounds"].to_dict("records")):
        for metric in ("largest", "largest_bound", "variance", "variance_bound"):
            yield Row("bounds", setting, seed, row["layer"], metric, float(row[metric]), depth)


@torch.no_grad()
def _feature_average(models: list[nn.Module], factor: float, dtype: torch.dtype, x: Tensor) -> Tensor:
    """Logits of the mean of the features under the mean of the heads, all entries magnified."""
    made = [magnified(model, factor, entries_of(model, "all"), dtype).eval() for model in models]
    mean = torch.stack([features(model, "head", x.to(dtype)) for model in made]).mean(0)
    weight, bias = (
        torch.stack([model.get_parameter(f"head.{name}") for model in made]).mean(0)
        for name in ("weight", "bias")
    )
    return mean @ weight.T + bias


def _templates(shop: Workshop, seed: int) -> Iterator[Row]:
    for data in MERGED:
        models, found = models_of(shop, data, PAPERS, seed, most=2)
        x, y = found.train.images / 255, found.train.labels  # pixels from 0 to 1, as the paper has them
        result = ANALYSES["templates"].call(Subject.of(models, x, y))
        for table, metrics in (
            ("templates", ("with_mean", "with_difference")),
            ("merged", ("with_first", "with_second")),
        ):
            frame = result.tables[table]
            for metric in metrics:
                yield Row(table, data, seed, "mean over classes", metric, float(frame[metric].mean()))
                for code, value in enumerate(frame[metric]):
                    yield Row(table, data, seed, "class", metric, float(value), code)
        for row in result.tables["kernels"].to_dict("records"):
            yield Row(
                "kernels", data, seed, f"{row['first']} {row['second']}", "correlation", row["correlation"]
            )
            yield Row("kernels", data, seed, f"{row['first']} {row['second']}", "retained", row["retained"])
        if seed == 0:
            yield from _pictures(result.arrays, data)


def _pictures(arrays: Mapping[str, np.ndarray], data: str) -> Iterator[Row]:
    """Mean images, weights and a merged template of two classes: grey, 16 pixels, from 0 to 255."""
    for name, chosen in (
        ("means", (0, 1, MERGED[data])),
        ("weights", (0, 1, MERGED[data])),
        ("merged", (0,)),
    ):
        for number in chosen:
            grey = avg_pool2d(torch.from_numpy(arrays[name][number]).mean(0)[None], 2)[0]
            scaled = 255 * (grey - grey.min()) / (grey.max() - grey.min())
            for place, pixel in enumerate(scaled.round().flatten().tolist()):
                yield Row(f"pixels-{name}", data, 0, str(number), "grey", pixel, place)


def _tasks(shop: Workshop, network: str, seed: int) -> Iterator[Row]:
    """Pairs, model 1 of ``MAIN`` and model 2 of another set, on ``MAIN`` under the first's head."""
    first, found = models_of(shop, MAIN, network, seed, most=1)
    begin = entries(begun(network, found.classes, seed, shop.start(network, seed)))
    x, y = seen(found.test)
    for data in TASKS:
        others, _ = models_of(shop, data, network, seed, most=1)
        pair = {"first": first["model 0"], "second": others["model 0"]}
        owners = torch.zeros(len(x), dtype=torch.int64)
        subject = Subject(pair, x, y, owners=owners, start=begin, head="head", seed=seed)
        for row in ANALYSES["tasks"].call(subject).frame.to_dict("records"):
            yield Row("tasks", f"{MAIN} {data}", seed, row["method"], "accuracy", row["accuracy"])
