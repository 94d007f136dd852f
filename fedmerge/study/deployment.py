"""Deployment: what the unseen hospital gets from each method, stream by stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedmerge.analysis import scores
from fedmerge.data import Split, streams
from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.study.config import Deployment
from fedmerge.testtime import Node

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A method at the door of the unseen hospital: its label, its kind, and what answers there.

    ``model`` is a fixed network, or a test-time method that may look at each batch. ``forward_passes`` is
    what one prediction of a fixed network costs.
    """

    label: str
    kind: str
    model: nn.Module | Node
    forward_passes: int = 1


@dataclass(frozen=True)
class Arrivals:
    """What arrives at an unseen hospital: its images in one split, and the orders they come in, by stream."""

    name: str
    split: Split
    orders: dict[str, np.ndarray]

    @classmethod
    def of(cls, name: str, split: Split, deployment: Deployment, seed: int) -> Arrivals:
        """Draw the configured streams of one hospital; each holds every image once."""
        orders = {
            spec.name: streams.order(spec, split.labels, deployment.batch_size, seed, name)
            for spec in deployment.streams
        }
        return cls(name, split, orders)


def save_streams(site: Arrivals, folder: Path) -> None:
    """Write the orders as int64 tensors, one a stream, to streams.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: torch.from_numpy(order) for name, order in site.orders.items()}, folder / "streams.safetensors"
    )


def deploy(
    candidate: Candidate,
    site: Arrivals,
    deployment: Deployment,
    normalisation: Normalisation,
    device: str,
    sources: tuple[str, ...],
) -> Iterator[tuple[Row, list[Row]]]:
    """Run one candidate on every stream; yields (result row, coefficient rows) a stream.

    A fixed network answers each image alone, so it predicts once and its scores hold for every order.
    A test-time method is reset at the start of each stream, sees each batch once, without labels, and
    predicts it with what it made of that batch.
    """
    if isinstance(candidate.model, Node):
        for name, order in site.orders.items():
            logits, seconds, passes, trace = _follow(
                candidate.model, site.split, order, deployment, normalisation, device, sources
            )
            row = _row(candidate, logits, site.split.labels[torch.as_tensor(order)], passes, seconds)
            yield row | {"stream": name}, [entry | {"stream": name} for entry in trace]
        return
    began = time.perf_counter()
    logits = predict(candidate.model, site.split.images, normalisation, device=device)
    row = _row(candidate, logits, site.split.labels, candidate.forward_passes, time.perf_counter() - began)
    for name in site.orders:
        yield row | {"stream": name}, []


def _follow(
    node: Node,
    split: Split,
    order: np.ndarray,
    deployment: Deployment,
    normalisation: Normalisation,
    device: str,
    sources: tuple[str, ...],
) -> tuple[Tensor, float, float, list[Row]]:
    node.reset()
    logits, trace = [], []
    began = time.perf_counter()
    for number, index in enumerate(streams.batches(order, deployment.batch_size)):
        images = normalisation(split.images[torch.as_tensor(index)].to(device))
        answer, record = node.observe(images)
        logits.append(answer.float().cpu())
        if record is not None:
            trace += [
                {"batch": number, "source": source, "encoder": float(encoder), "head": float(head)}
                for source, encoder, head in zip(sources, record.encoder, record.head, strict=True)
            ]
    return torch.cat(logits), time.perf_counter() - began, node.forward_passes / len(logits), trace


def _row(candidate: Candidate, logits: Tensor, labels: Tensor, passes: float, seconds: float) -> Row:
    return {
        "method": candidate.label,
        "kind": candidate.kind,
        **asdict(scores(logits, labels)),
        "forward_passes": float(passes),
        "seconds": seconds,
    }
