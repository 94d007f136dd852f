"""Hospitals that do not train: each loads the weights it gets, and answers with a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Message

from fedmerge.data import Arrays, CohortSpec, Site, SiteSpec, build_cohort
from fedmerge.federation import FederationPlan, Hospital, client_app
from fedmerge.federation.messages.jobs import EvaluateJob, TrainJob
from fedmerge.federation.messages.reading import read_job
from fedmerge.federation.messages.records import reply_message
from fedmerge.models import ModelSpec, Normalisation
from fedmerge.training import TrainingOptions


def plan_of(model: str) -> FederationPlan:
    """A plan for a network of torchvision's or ours; no hospital follows its training options."""
    options = TrainingOptions(lr=0.01, batch_size=8, schedule="constant")
    return FederationPlan(
        model=ModelSpec(name=model, in_channels=3, n_classes=4, image_size=64),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=100,
        local=options,
        fine_tune=options,
    )


class Echo(Hospital):
    """Answers training with the weights it was sent, and evaluation with scores of 0."""

    def train(self, message: Message) -> Message:
        model = self._load(message, read_job(message, TrainJob), {})
        state = {key: value.clone() for key, value in model.state_dict().items()}
        return reply_message(
            message, {"num-examples": 1, "loss": 0.0, "accuracy": 0.0, "seconds": 0.0}, state
        )

    def evaluate(self, message: Message) -> Message:
        self._load(message, read_job(message, EvaluateJob), {})
        return reply_message(
            message, {"num-examples": 1, "loss": 0.0, "accuracy": 0.0, "balanced_accuracy": 0.0}
        )


@lru_cache
def _images() -> Site:
    pixels = torch.zeros(20, 64, 64, 3, dtype=torch.uint8).numpy()
    spec = SiteSpec(name="hospital", source=Arrays(pixels, torch.arange(20).numpy() % 4))
    return build_cohort(CohortSpec(name="one", sites=(spec,)), seed=0).sites[0]


def echo(number: int) -> Echo:
    """Return the echoing hospital of this number."""
    from dataclasses import replace

    return Echo(replace(_images(), name=f"hospital-{number:04d}"))


class OpenEcho:
    """An ``Echo`` on its way to a worker."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, progress: Callable[[int, int], None]) -> Any:
        hospital = echo(self.number)
        return client_app(lambda context: hospital)


@contextmanager
def grid_of(kind: str, hospitals: int, workers: int) -> Iterator[Any]:
    """Open our grid, ``local`` or ``ray``, over echoing hospitals; workers need this folder on their path."""
    if kind == "local":
        from fedmerge.federation import LocalGrid

        held = [echo(i) for i in range(hospitals)]
        yield LocalGrid(client_app(lambda context: held[int(context.node_config["partition-id"])]), hospitals)
        return
    from fedmerge.cluster.attach import ray_initialised
    from fedmerge.cluster.config import BackendConfig

    backend = BackendConfig(kind="ray", workers=workers)
    with ray_initialised(backend):
        from fedmerge.federation.grids.ray.grid import RayGrid
        from fedmerge.federation.grids.ray.pool import Pool

        pool = Pool(backend, "cpu", hospitals)
        try:
            yield RayGrid(pool, [OpenEcho(i) for i in range(hospitals)])
        finally:
            pool.close()
