"""A study that takes seconds: three tiny hospitals on disk, two ways to train, two seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.made_up_images import quarters

SITES = ("alpha", "beta", "delta")


def save_quarters(path: Path, seed: int) -> None:
    """30 images of 8 x 8 pixels and three classes, each bright in a corner of its own, as .npz."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", 30), ("val", 9), ("test", 9)):
        images, labels = quarters(rng, n, offset=20 * seed)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    np.savez(path, **arrays)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hospitals' files, their cohort, and the study."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(SITES):
        save_quarters(folder / f"{name}.npz", seed)
    sites = [{"name": name, "source": f"npz:{name}.npz", "unseen": name == "delta"} for name in SITES]
    (folder / "corners.yaml").write_text(yaml.safe_dump({"sites": sites}))
    (folder / "study.yaml").write_text(yaml.safe_dump(study_mapping(), sort_keys=False))
    return folder


def study_mapping() -> dict[str, Any]:
    """Compared: slow and fast training, by mean merging and by entropy-adaptive merging."""
    return {
        "name": "tiny",
        "base": {
            "name": "tiny",
            "cohort": "corners.yaml",
            "model": {"name": "small-cnn", "options": {"width": 4}},
            "seeds": [0, 1],
            "training": {"rounds": 1, "epochs": 1, "lr": 0.05, "batch_size": 10},
            "fusion": ["mean"],
            "testtime": ["entropy-adaptive"],
            "evaluation": {"batch_size": 16, "streams": ["iid", "temporal"], "shifts": ["noise"],
                           "severities": [1, 5]},
        },
        "axes": {
            "training": {"slow": {"training.fine_tune.lr": 0.001}, "fast": {"training.fine_tune.lr": 0.05}}
        },
        "compare": "training",
        "reference": "slow",
    }  # fmt: skip


@pytest.fixture
def study() -> dict[str, Any]:
    return study_mapping()
