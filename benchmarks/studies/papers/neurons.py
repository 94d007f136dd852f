"""Model Fusion via Neuron Interpolation: fused networks against averages, controls, retraining and ensembles.

Parents begin apart. ``skewed``: each class is shared out in Dirichlet(1) proportions; ``whole``: every
parent sees all images, in another order. The fusion set are validation images, without labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from benchmarks.studies.papers import compression
from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.images import Pictures, pictures
from benchmarks.studies.papers.networks import NETWORKS, Sizes, Workshop, made, rates, seen
from fedmerge.analysis.diagnosis import ANALYSES, Subject
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.analysis.diagnosis.settings import CANDIDATES, choose
from fedmerge.data import Split, partition
from fedmerge.errors import FedMergeError
from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build
from fedmerge.schema.option_paths import with_option
from fedmerge.seeding import numpy_generator

SIZES = Sizes(images=500, tested=400, epochs=4, fusion=128)
SETTINGS = (
    ("digits", "small-cnn-plain", "skewed"),
    ("cells", "vgg11", "skewed"),
    ("digits", "small-cnn-plain", "whole"),
)
METHODS = ("mean", "ot", "rebasin", "hf", "kf", "kf-gradient", "distill", "refit-head")
LABELLED: dict[str, tuple[str, dict[str, Any]]] = {
    "kf, conductance": ("kf", {"attribution": "conductance"}),
    "kf, deeplift": ("kf", {"attribution": "deeplift"}),
}
"""Variants that need the fusion images' labels."""
PARENTS = 2


def cells(shop: Workshop, seeds: int) -> Iterator[Cell]:
    """Yield a cell for each setting, for widths and for the gradient variant's settings; seeds together."""
    asked: dict[str, Callable[[int], Iterable[Row]]] = {
        **{"-".join(setting): partial(_fused, shop, *setting) for setting in SETTINGS},
        "widths": partial(_widths, shop),
        "settings-digits": partial(_settings, shop, "digits"),
        **{
            f"{name}-{data}-{parents.replace(' ', '-')}": partial(_compressed, shop, name, data, parents)
            for name in ("compressed", "further")
            for data, parents in compression.SETTINGS
        },
    }
    for name, make in asked.items():
        for seed in range(seeds):
            yield Cell(f"{name}-{seed}", partial(make, seed))


def parents_of(
    shop: Workshop, data: str, network: str, split: str, seed: int
) -> tuple[dict[str, nn.Module], Pictures]:
    """Return parents that began apart, and the images."""
    found = pictures(data, seed, shop.sizes.images, shop.sizes.tested)
    parts = _parts(found.train, split, seed)
    models = {}
    for number, part in enumerate(parts):
        models[f"parent {number}"] = _parent(shop, data, network, part, found.classes, seed, number, split)
    return models, found


def _parts(train: Split, split: str, seed: int) -> list[Split]:
    if split == "whole":
        return [train] * PARENTS
    rng = numpy_generator(seed, "split")
    places = partition(train.labels.numpy(), [1.0] * PARENTS, [1.0] * PARENTS, rng)
    return [train.select(torch.from_numpy(place)) for place in places]


def _parent(
    shop: Workshop, data: str, network: str, part: Split, classes: int, seed: int, number: int, split: str,
    options: dict[str, Any] | None = None,
) -> nn.Module:  # fmt: skip
    name, usual = NETWORKS[network]
    spec = ModelSpec(name=name, in_channels=3, n_classes=classes, image_size=32, options=options or usual)
    recipe = {
        "what": "parent",
        "network": spec.model_dump(),
        "data": data,
        "site": f"{number}",
        "split": split,
    }
    chosen = rates(network) | {"epochs": 2 * shop.sizes.epochs}
    return shop.trained(build(spec, 10 * seed + number), part, chosen, seed, recipe)


def _fused(shop: Workshop, data: str, network: str, split: str, seed: int) -> Iterator[Row]:
    models, found = parents_of(shop, data, network, split, seed)
    (fx, fy), (x, y) = seen(found.val), seen(found.test)
    fx, fy = fx[: shop.sizes.fusion], fy[: shop.sizes.fusion]
    setting, networks = f"{data} {network} {split}", list(models.values())
    own = [score(answers(model, x), y).accuracy for model in networks]
    logits = torch.stack([answers(model, x) for model in networks])
    together = score(logits.mean(0), y).accuracy
    pooled = _parent(shop, data, network, found.train, found.classes, seed, 9, "pooled")
    fixed = {
        "best parent": max(own), "worst parent": min(own), "parents": sum(own) / len(own),
        "ensemble": together, "retrained": score(answers(pooled, x), y).accuracy,
    }  # fmt: skip
    for case, value in fixed.items():
        yield Row("fused", setting, seed, case, "accuracy", value)
    made_of = {}
    variants: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | LABELLED
    for case, (method, options) in variants.items():
        labels = {"labels": fy} if case in LABELLED else {}
        began = time.process_time()
        try:
            fused = merge(networks, method, data=fx, seed=seed, **labels, **options).model
        except FedMergeError as error:
            print(f"{setting}, {case}: {error}", flush=True)
            continue
        yield Row("fused", setting, seed, case, "seconds", time.process_time() - began)
        yield Row("fused", setting, seed, case, "accuracy", score(answers(fused, x), y).accuracy)
        made_of[case] = fused
    if split == "whole":
        yield from _tuned(shop, made_of, models, found, (setting, network), seed)
    subject = Subject.of(models, fx, fy, seed=seed)
    tables = (
        ANALYSES["neurons"]
        .call(subject, methods=("mean", "ot", "rebasin", "hf", "kf"), attribution="conductance")
        .tables
    )
    for row in tables["neurons"].to_dict("records"):
        for metric in ("grouping", "approximation"):
            yield Row("errors", setting, seed, row["method"], metric, row[metric], row["depth"])
    for row in tables["methods"].to_dict("records"):
        for metric in ("grouping", "approximation", "agreement"):
            yield Row("methods", setting, seed, row["method"], metric, row[metric])
    depths = {name: depth for depth, name in enumerate(dict.fromkeys(tables["importance"]["layer"]))}
    for row in tables["importance"].to_dict("records"):
        yield Row(
            "importance", setting, seed, row["model"], "top_tenth", row["top_tenth"], depths[row["layer"]]
        )


def _tuned(
    shop: Workshop, made_of: dict[str, nn.Module], models: dict[str, nn.Module], found: Pictures,
    of: tuple[str, str], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Fused networks and the better parent, trained on for as many epochs on all images."""
    setting, network = of
    x, y = seen(found.test)
    best = max(
        models.values(),
        key=lambda model: score(answers(model, *seen(found.val)[:1]), seen(found.val)[1]).accuracy,
    )
    for case in ("best parent", "mean", "kf"):
        begin = best if case == "best parent" else made_of.get(case)
        if begin is None:
            continue
        model = made(network, found.classes, seed)
        model.load_state_dict(begin.state_dict())
        options = rates(network, 0.2) | {"epochs": shop.sizes.epochs}
        recipe = {"what": "on", "setting": setting, "site": case}
        tuned = shop.trained(model, found.train, options, seed, recipe)
        yield Row("tuned", setting, seed, case, "accuracy", score(answers(tuned, x), y).accuracy)


def _widths(shop: Workshop, seed: int) -> Iterator[Row]:
    """Parents of widths 8 and 16 into one of 8 and into one of 16; into 8 distilled as well."""
    found = pictures("digits", seed, shop.sizes.images, shop.sizes.tested)
    parts, networks = _parts(found.train, "skewed", seed), []
    for number, width in enumerate((8, 16)):
        options = {"width": width, "norm": "none"}
        networks.append(
            _parent(
                shop,
                "digits",
                "small-cnn-plain",
                parts[number],
                found.classes,
                seed,
                number,
                f"width {width}",
                options,
            )
        )
    fx = seen(found.val)[0][: shop.sizes.fusion]
    x, y = seen(found.test)
    for number, width in enumerate((8, 16)):
        yield Row(
            "widths",
            "digits",
            seed,
            f"parent of width {width}",
            "accuracy",
            score(answers(networks[number], x), y).accuracy,
        )
    for width, model in zip((8, 16), networks, strict=True):
        fused = merge(networks, "kf", data=fx, into=model, seed=seed).model
        yield Row(
            "widths", "digits", seed, f"kf into {width}", "accuracy", score(answers(fused, x), y).accuracy
        )
    mean = torch.stack([answers(model, x) for model in networks]).mean(0)
    yield Row("widths", "digits", seed, "ensemble", "accuracy", score(mean, y).accuracy)


def _compressed(shop: Workshop, name: str, data: str, parents: str, seed: int) -> Iterator[Row]:
    """Wide ResNets into a narrow one, which is also trained on all images with their labels."""
    found = compression.plain(pictures(data, seed, shop.sizes.images, shop.sizes.tested))

    def trained(parts: list[Split], split: str, width: int) -> list[nn.Module]:
        return [
            _parent(shop, data, compression.NETWORK, part, found.classes, seed, number,
                    f"{split}, width {width}", {"width": width})
            for number, part in enumerate(parts)
        ]  # fmt: skip

    split = compression.SPLITS[parents]
    parts = [found.train] if split == "one" else _parts(found.train, split, seed)
    setting, student = compression.setting_of(data, parents), compression.blank(found.classes, seed)
    wide = trained(parts, split, compression.WIDE)
    if name == "further":
        return compression.further(shop.sizes, setting, wide, student, found, seed)
    (best,) = trained([found.train], "one", compression.NARROW)
    known = compression.given(setting, wide, best, found, seed)
    return chain(known, compression.compressed(shop.sizes, setting, wide, student, found, seed))


def _settings(shop: Workshop, data: str, seed: int) -> Iterator[Row]:
    """Each candidate's accuracy, and which the rule takes, on fusion images alone."""
    models, found = parents_of(shop, data, "small-cnn-plain", "skewed", seed)
    fx, (x, y) = seen(found.val)[0][: shop.sizes.fusion], seen(found.test)
    candidates = {name: with_option(options, "descent.epochs", 10) for name, options in CANDIDATES.items()}
    networks = list(models.values())
    held, best = choose(networks, fx, candidates, seed)
    for name, options in candidates.items():
        fused = merge(networks, "kf-gradient", data=fx, seed=seed, **options).model
        value = score(answers(fused, x), y).accuracy
        yield Row("settings", data, seed, name, "accuracy", value)
        yield Row("settings", data, seed, name, "held_out", held[name])
        if name == best:
            yield Row("settings", data, seed, "rule", "accuracy", value)
