"""Each study of the papers, small, on made-up images: what its page's claims need is in its rows."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies.papers import cells, images
from benchmarks.studies.papers.claims import Rows, decide
from benchmarks.studies.papers.mirage_claims import target
from benchmarks.studies.papers.networks import SMALL, Workshop, begun, encoder_of
from benchmarks.studies.papers.study import STUDIES

CLASSES = {
    "digits_usps": 10,
    "wbc_barcelona_28": 4,
    "breastmnist": 2,
    "tinyimagenet100_32": 100,
    "retinamnist": 5,
}
LESS: dict[str, dict[str, Any]] = {
    "mirage": {"SETTINGS": (("pacs", "small-cnn"),), "HEADS": ("shared",), "STREAMS": ("iid",)},
    "rethinking": {
        "DEPTHS": (), "SETS": (), "TASKS": ("cells",),
        "TABLE8": {"resnet18": (1.82, 11.7)},
        "FACTORS": (0.01, 1.0, 10.0, 100.0, 105.0, 110.0, 200.0),
    },
    "neurons": {"SETTINGS": (("digits", "small-cnn-plain", "skewed"),)},
    "filters": {"FAMILIES": {"vgg11": ("breast",)}},
}  # fmt: skip
"""What is left of each study."""
SLOW = (
    "efficientnet",
    "magnified-vgg11",
    "starts",
    "own-heads",
    "theorem-chains",
    "widths",
    "settings",
    "depth-",
    "compressed-",
    "further-",
)
PARTS = {
    "mirage": {
        "drift-layers",
        "heads-target",
        "barriers-sources",
        "barriers-optimum-path",
        "target",
        "plane",
    },
    "rethinking": {
        "averages",
        "magnified",
        "bounds",
        "templates",
        "pixels-merged",
        "tasks",
        "sizes",
        "theorem",
    },
    "neurons": {"fused", "errors", "methods", "importance"},
    "filters": {"scores", "filters", "merges", "rank", "threshold", "size"},
}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of noise in the place of the image sets."""
    draws = np.random.default_rng(0)
    for name in [*CLASSES, *images.COHORTS["pacs"]]:
        classes = CLASSES.get(name, 7)
        given = {}
        for part, count in (("train", 200), ("val", 120), ("test", 120)):
            given[f"{part}_images"] = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            given[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
        np.savez(tmp_path / f"{name}.npz", **given)
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))


@pytest.mark.parametrize("page", STUDIES)
@pytest.mark.usefixtures("pictures")
def test_a_small_study_has_rows_for_its_claims(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = STUDIES[page]
    study = importlib.import_module(f"benchmarks.studies.papers.{name}")
    for what, value in LESS[name].items():
        monkeypatch.setattr(study, what, value)
    some = [
        each
        for each in study.cells(Workshop(tmp_path / "work", SMALL), 1)
        if not any(word in each.name for word in SLOW)
    ]
    cells.save(
        cells.computed(some, tmp_path / "work" / name, lambda line: None), tmp_path / f"papers-{page}.csv"
    )
    frame = Rows(tmp_path).of(page)
    assert set(frame["part"]) >= PARTS[name]
    assert frame["value"].notna().mean() > 0.9
    claims = importlib.import_module(f"benchmarks.studies.papers.{name}_claims").CLAIMS
    own = [each for each in claims if each.margin is not None]
    decided = []
    for claim in own:
        try:
            decided.append(decide(claim, Rows(tmp_path), least=1))
        except FileNotFoundError:  # a claim that a study of the bench decides
            continue
    assert sum(each.seeds for each in decided) >= 3


@pytest.mark.usefixtures("pictures")
def test_models_begin_with_one_encoder_and_heads_by_name(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, SMALL)
    start = shop.start("small-cnn", 0)
    one, same, other = (begun("small-cnn", 7, 0, start, head) for head in ("", "", "north"))
    for model in (one, other):
        assert all((encoder_of(model)[key] == value).all() for key, value in start.items())
    assert (one.head.weight == same.head.weight).all()
    assert not (one.head.weight == other.head.weight).any()
    again = Workshop(tmp_path, SMALL).start("small-cnn", 0)
    assert all((again[key] == value).all() for key, value in start.items())
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_settings_of_sites_are_averaged_within_their_cohort() -> None:
    """Two unseen sites, 0.2 and 0.4 above the mean: 0.3 for the cohort and network."""
    frame = pd.DataFrame([
        {"part": "target", "setting": f"pacs cnn shared {site}", "seed": 0, "case": case,
            "metric": "accuracy",
         "value": value}
        for site, gain in (("a", 0.2), ("b", 0.4)) for case, value in (("optimum", 0.5 + gain), ("mean", 0.5))
    ])  # fmt: skip
    rows = Rows(Path("nowhere"))
    rows._read["mirage"] = frame
    found = target("optimum", "mean")(rows)
    assert found["setting"].tolist() == ["pacs cnn shared"]
    assert found["value"].tolist() == pytest.approx([0.3])
