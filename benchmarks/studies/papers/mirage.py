"""The Mean is the Mirage: drift, heads on other encoders, barriers and test-time merging on other sites.

A cell is a cohort, a network and a seed. From one start each site trains a model, once with one initial head
for all and once with heads of their own. Each site then is the unseen one: the others' models are merged
there. ``optimum``: the unseen site's own model, trained on its labels, a target-supervised reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.images import COHORTS, Pictures, pictures
from benchmarks.studies.papers.networks import Sizes, Workshop, seen
from fedmerge.analysis.diagnosis import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.contract import answers, score
from fedmerge.data import streams
from fedmerge.data.streams import StreamSpec
from fedmerge.merging import merge
from fedmerge.models.entries import entries
from fedmerge.testtime import EntropyAdaptive
from fedmerge.testtime.options import Norms

NAME = "mirage"
SIZES = Sizes()
SETTINGS = (("pacs", "small-cnn"), ("pacs", "tiny-vit"), ("blood", "small-cnn"))
HEADS = ("shared", "independent")
STREAMS = ("iid", "dirichlet-0.5", "dirichlet-0.05", "temporal")
BATCH = 64
LOOKED = 128
"""Images of a path or plane."""


def cells(shop: Workshop, seeds: int) -> Iterator[Cell]:
    """Yield a cell for each cohort, network and seed."""
    for seed in range(seeds):
        for cohort, network in SETTINGS:
            yield Cell(f"{cohort}-{network}-{seed}", partial(_cell, shop, cohort, network, seed))


def _cell(shop: Workshop, cohort: str, network: str, seed: int) -> Iterator[Row]:
    sites = {name: pictures(name, seed, shop.sizes.images, shop.sizes.tested) for name in COHORTS[cohort]}
    for heads in HEADS:
        setting = f"{cohort} {network} {heads}"
        models = {
            name: shop.tuned(
                network,
                name,
                found.train,
                found.classes,
                seed,
                site=name,
                head="" if heads == "shared" else name,
            )
            for name, found in sites.items()
        }
        yield from _drift(shop, network, models, seed, setting)
        for target in sites:
            others = {name: model for name, model in models.items() if name != target}
            yield from _heads(others, sites, seed, setting, target)
            if heads == "shared" or target == next(iter(sites)):
                yield from _barriers(shop, others, models[target], sites, target, seed, setting)
            if heads == "shared":
                yield from _streams(others, models[target], sites, target, seed, setting)
        if heads == "shared" and seed == 0:
            yield from _plane(shop, models, sites, seed, setting)


def _drift(
    shop: Workshop, network: str, models: Mapping[str, nn.Module], seed: int, setting: str
) -> Iterator[Row]:
    first = next(iter(models.values()))
    begin = {**entries(first), **shop.start(network, seed)}
    found = ANALYSES["drift"].call(Subject.of(models, start=begin))
    for table, case in (("parts", "part"), ("layers", "kind")):
        for row in found.tables[table].to_dict("records"):
            name = row[case] if table == "parts" else f"{row['part']} {row['kind']}"
            for metric in ("angle", "task_angle", "directional", "scale", "retained"):
                if metric.startswith("task") and row["part"] == "head":
                    continue  # heads begin elsewhere
                yield Row(
                    f"drift-{table}", setting, seed, name, metric, row[metric], row.get("depth", float("nan"))
                )


def _looked(sites: Mapping[str, Pictures], names: Mapping[str, object], most: int) -> tuple[Tensor, Tensor]:
    """Validation images of sites, as many of each."""
    parts = [
        seen(sites[name].val.select(torch.arange(len(sites[name].val))[: most // len(names)]))
        for name in names
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _heads(
    models: Mapping[str, nn.Module], sites: Mapping[str, Pictures], seed: int, setting: str, target: str
) -> Iterator[Row]:
    """Accuracy of own heads, other heads and the mean's on own, other and the mean encoder, at own sites."""
    x, y = _looked(sites, models, 3 * LOOKED)
    for where, images, labels in (("sources", x, y), ("target", *seen(sites[target].test))):
        frame = ANALYSES["heads"].call(Subject.of(models, images, labels)).frame
        own, mean = frame["encoder"] == frame["head"], (frame["encoder"] == "mean", frame["head"] == "mean")
        groups = {
            "own encoder": own & ~mean[0], "other encoder": ~own & ~mean[0] & ~mean[1],
            "head on mean encoder": mean[0] & ~mean[1], "mean head on mean encoder": mean[0] & mean[1],
        }  # fmt: skip
        for case, part in groups.items():
            yield Row(
                f"heads-{where}",
                f"{setting} {target}",
                seed,
                case,
                "accuracy",
                frame[part]["accuracy"].mean(),
            )


def _barriers(
    shop: Workshop,
    models: Mapping[str, nn.Module],
    optimum: nn.Module,
    sites: Mapping[str, Pictures],
    target: str,
    seed: int,
    setting: str,
) -> Iterator[Row]:
    x, y = _looked(sites, models, LOOKED)
    points = shop.sizes.points
    found = ANALYSES["barriers"].call(Subject.of(models, x, y), points=points)
    yield from _ways(found, "barriers-sources", f"{setting} {target}", seed)
    x, y = (part[:LOOKED] for part in seen(sites[target].test))
    mean = merge(list(models.values()), "mean").model
    ends = Subject.of({"mean": mean, "optimum": optimum}, x, y)
    yield from _ways(
        ANALYSES["barriers"].call(ends, points=points, to_mean=False),
        "barriers-optimum",
        f"{setting} {target}",
        seed,
    )


def _ways(found: Finding, part: str, setting: str, seed: int) -> Iterator[Row]:
    for (end, norms), rows in found.frame.groupby(["end", "norms"], sort=False):
        for metric in ("lost", "barrier"):
            yield Row(part, setting, seed, f"{end} {norms}", metric, float(rows[metric].mean()))
    for (end, norms, t), rows in found.tables["paths"].groupby(["end", "norms", "t"], sort=False):
        yield Row(
            f"{part}-path", setting, seed, f"{end} {norms}", "accuracy", float(rows["accuracy"].mean()), t
        )


def _streams(
    models: Mapping[str, nn.Module],
    optimum: nn.Module,
    sites: Mapping[str, Pictures],
    target: str,
    seed: int,
    setting: str,
) -> Iterator[Row]:
    """Accuracy at the unseen site, by stream; methods that ignore the order have no stream."""
    x, y = seen(sites[target].test)
    where, networks = f"{setting} {target}", list(models.values())
    logits = [answers(model, x) for model in networks]
    own = [score(each, y).accuracy for each in logits]
    merged = merge(networks, "mean").model
    fixed = {
        "optimum": score(answers(optimum, x), y).accuracy,
        "mean": score(answers(merged, x), y).accuracy,
        "ensemble": score(torch.stack(logits).mean(0), y).accuracy,
        "sources": sum(own) / len(own),
        "best source": max(own),
    }
    for case, value in fixed.items():
        yield Row("target", where, seed, case, "accuracy", value)
    normed = any(isinstance(each, nn.BatchNorm2d) for each in networks[0].modules())
    for text in STREAMS:
        order = _order(text, y, seed, target)
        for norms in ("sources", "batch") if normed else ("sources",):
            node = EntropyAdaptive(networks, norms=Norms(statistics=norms))
            hits = sum(int((node(x[index]).argmax(1) == y[index]).sum()) for index in order.split(BATCH))
            case = f"entropy-adaptive {text}" + (" batch norms" if norms == "batch" else "")
            yield Row("target", where, seed, case, "accuracy", hits / len(y))


def _order(text: str, labels: Tensor, seed: int, target: str) -> Tensor:
    kind, _, delta = text.partition("-")
    spec = StreamSpec.model_validate({kind: float(delta)} if delta else kind)
    return torch.from_numpy(streams.order(spec, labels, BATCH, seed, target))


def _plane(
    shop: Workshop, models: Mapping[str, nn.Module], sites: Mapping[str, Pictures], seed: int, setting: str
) -> Iterator[Row]:
    """The plane through the models of three sites, with the first site's images, its optimum and batches."""
    target = next(iter(models))
    others = {name: model for name, model in models.items() if name != target}
    x, y = seen(sites[target].test)
    node, blends = EntropyAdaptive(list(others.values())), {}
    for number, index in enumerate(_order("dirichlet-0.05", y, seed, target).split(BATCH)):
        node(x[index])
        assert node.trace is not None
        blends[f"batch {number}"] = (node.trace.encoder, node.trace.head)
    extra = {"optimum": entries(models[target])}
    subject = Subject.of(others, x[:LOOKED], y[:LOOKED], extra=extra, blends=blends)
    found = ANALYSES["landscape"].call(subject, grid=shop.sizes.grid)
    for row in found.tables["plane"].to_dict("records"):
        yield Row("plane", setting, seed, "", "accuracy", row["accuracy"], row["x"], row["y"])
        yield Row("plane", setting, seed, "", "loss", row["loss"], row["x"], row["y"])
    for row in found.tables["marks"].to_dict("records"):
        case = f"{row['kind']}: {row['name']}"
        yield Row("plane-marks", setting, seed, case, "accuracy", row["accuracy"], row["x"], row["y"])
