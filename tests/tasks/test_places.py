"""Several findings an image give the same rows wherever the work is done, and under masks as in the open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import fedmerge as fm
from tests.tasks.test_runs import arrays

pytestmark = pytest.mark.usefixtures("no_pictures")
CLOCKS = ["seconds", "training_seconds"]
NAMES = ("a", "b", "c", "u")


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    """Three hospitals that train and an unseen one, each with 60 + 15 + 15 images of three findings."""
    for seed, name in enumerate(NAMES):
        given = arrays("multilabel", seed)
        held: dict[str, Any] = {}
        for split, part in (("train", slice(60)), ("val", slice(60, 75)), ("test", slice(75, 90))):
            held |= {f"{split}_images": given.images[part], f"{split}_labels": given.labels[part]}
        np.savez(tmp_path / f"{name}.npz", **held)
    sites = [{"name": name, "source": f"npz:{name}.npz", "unseen": name == "u"} for name in NAMES]
    (tmp_path / "findings.yaml").write_text(yaml.safe_dump({"task": "multilabel", "sites": sites}))
    return {
        "name": "findings",
        "cohort": str(tmp_path / "findings.yaml"),
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "normalisation": "per-site",
        "threads": 1,
        "training": {"rounds": 1, "epochs": 1, "batch_size": 10, "augment": ["shift"]},
        "fusion": ["mean"],
        "evaluation": {"batch_size": 15, "streams": ["iid"], "split": "test"},
    }


def test_a_study_has_the_rows_of_one_process_with_two_workers_and_on_ray(
    base, own_ray, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    axes = {"training": {"slow": {"training.lr": 0.01}, "fast": {"training.lr": 0.05}}}
    base |= {"testtime": ["entropy-adaptive"]}
    study.write_text(yaml.safe_dump({"name": "findings", "base": base, "axes": axes}, sort_keys=False))
    here = fm.bench(study, out=tmp_path / "here")
    assert here.table["auroc"].notna().all()
    for name, how in {"workers": {"workers": 2}, "ray": {"backend": {"kind": "ray", "workers": 2}}}.items():
        there = fm.bench(study, out=tmp_path / name, **how)
        pd.testing.assert_frame_equal(here.table.drop(columns=CLOCKS), there.table.drop(columns=CLOCKS))


def test_sums_and_updates_under_masks_give_the_rows_of_the_open_ones(base, own_ray, tmp_path: Path) -> None:
    """Sums over images of a fusion; and rounds without models of the hospitals' own. On Ray to the bit."""
    data = {"from": "hospitals", "images": 54, "split": "train"}
    fused = base | {"fusion": ["hf"], "fusion_data": data}
    rounds = base | {"fusion": ["federated"], "training": base["training"] | {"fine_tune": "none"}}
    for name, given, option in (
        ("sums", fused, "secure_statistics"),
        ("updates", rounds, "secure_aggregation"),
    ):
        masked = given | {"federation": {option: True}}
        plain = fm.run(given, out=tmp_path / f"{name}-open")
        local = fm.run(masked, out=tmp_path / f"{name}-masked")
        ray = fm.run(masked, out=tmp_path / f"{name}-ray", backend={"kind": "ray", "workers": 2})
        assert plain.failed == local.failed == ray.failed == 0
        scores = [column for column in local.table if column.startswith(("auroc", "loss", "accuracy"))]
        pd.testing.assert_frame_equal(local.table[scores], ray.table[scores])
        pd.testing.assert_frame_equal(local.table[scores], plain.table[scores], rtol=1e-4, atol=1e-4)
