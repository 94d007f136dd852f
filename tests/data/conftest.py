from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmerge.data import Split
from fedmerge.data.sources.sources import load_source


@pytest.fixture(scope="session")
def digits() -> Split:
    """The training digits of scikit-learn: N x 1 x 8 x 8."""
    return load_source("digits").train


@pytest.fixture
def data_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that FEDMERGE_DATA names; no other data is visible (HOME has none either)."""
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def write_npz(data_here: Path) -> Callable[..., Path]:
    """Write a six-key file into the data folder; keyword arguments replace keys, None leaves them out."""

    def write(name: str = "set.npz", *, n_classes: int = 2, n: int = 12, **replace: object) -> Path:
        rng = np.random.default_rng(0)
        arrays: dict[str, object] = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_images"] = rng.integers(0, 256, (n, 9, 9), dtype=np.uint8)
            arrays[f"{split}_labels"] = (np.arange(n) % n_classes).astype(np.uint8)[:, None]
        arrays |= replace
        path = data_here / name
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]
        return path

    return write


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The path of a real data file, or skip."""

    def find(name: str) -> Path:
        folder = os.environ.get("FEDMERGE_DATA")
        if not folder or not (Path(folder) / name).exists():
            pytest.skip(f"{name} is not in the folder that FEDMERGE_DATA names")
        return Path(folder) / name

    return find


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Split]:
    """A split of n random images with labels 0, 1, ..., n_classes - 1, 0, 1, ..."""

    def make(n: int, n_classes: int = 2, channels: int = 1, side: int = 8) -> Split:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=rng)
        return Split(images, torch.arange(n) % n_classes)

    return make
