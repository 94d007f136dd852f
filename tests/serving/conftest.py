"""Tiny models of three hospitals on disk, and a service of them without a port."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from fedmerge.data.reading import ReadOptions
from fedmerge.models import ModelPool, ModelSpec, build
from fedmerge.models.inputs import Normalisation
from fedmerge.seeding import seeded
from fedmerge.serving.app import make_app
from fedmerge.serving.service import Service
from fedmerge.workflows.served import find_models, served

CLASSES = ("cat", "=dog", "cow")
HOSPITALS = ("north", "south", "east")
SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pool_of(tmp_path_factory.mktemp("models"), SPEC)


def pool_of(place: Path, spec: ModelSpec, classes: tuple[str, ...] = CLASSES) -> Path:
    """Models of three hospitals, whose statistics are drawn too."""
    pool = ModelPool(place)
    for number, name in enumerate(HOSPITALS):
        model = build(spec, seed=number)
        with seeded(number, "test"), torch.no_grad():
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_(std=0.5)
        pool.add(
            name,
            model.state_dict(),
            model=spec,
            normalisation=Normalisation.named("half"),
            class_names=classes,
            method="local training",
        )
    return pool.folder


def drawn(count: int, seed: int, size: int = 8) -> np.ndarray:
    """Images, uint8 N x S x S."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


def npz(images: Any) -> bytes:
    """An npz of images."""
    file = io.BytesIO()
    np.savez(file, images=images)
    return file.getvalue()


Start = Callable[..., TestClient]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A client of a service; ``start(method=…, changes=…, place=…, read=…)``, the rest as ``Service`` takes
    it."""
    begun: list[TestClient] = []

    def make(
        method: str | None = None,
        changes: tuple[str, ...] = (),
        place: Path = folder,
        read: ReadOptions | None = None,
        **service: Any,
    ) -> TestClient:
        found = replace(find_models([place]), read=read or ReadOptions())
        what = served(found, method, changes, device="cpu")
        app = make_app(Service(what, **service), ("testserver",))
        client = TestClient(app).__enter__()
        begun.append(client)
        return client

    yield make
    for client in begun:
        client.__exit__(None, None, None)
