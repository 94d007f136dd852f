"""The pages on the papers: each study runs small, verdicts follow the rule, pages say what their rows say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import ROOT
from benchmarks.studies.papers import cells, claims, images, pages
from benchmarks.studies.papers.cells import Cell, Row
from benchmarks.studies.papers.claims import Claim, Rows, decide
from benchmarks.studies.papers.mirage_claims import GRADIENTS, PACS, on_pacs

DOCS = ROOT / "docs" / "papers"
TABLE = pd.DataFrame


def verdict(values: list[list[float]], **of: object) -> claims.Decided:
    """The verdict on margins, a row a setting and a column a seed."""
    frame = TABLE([
        {"setting": f"s{i}", "seed": j, "value": value}
        for i, row in enumerate(values) for j, value in enumerate(row)
    ])  # fmt: skip
    return decide(Claim("", "", "", lambda rows: frame, **of), Rows(Path("nowhere")))


def test_a_verdict_follows_the_intervals() -> None:
    """Three seeds a hundredth apart: t = 4.303, so half an interval is 4.303 * 0.01 / sqrt 3 = 0.0248."""
    spread = np.array([-0.01, 0.0, 0.01])
    up, down, flat = (list(middle + spread) for middle in (0.1, -0.1, 0.0))
    found = verdict([up])
    assert (found.verdict, found.seeds, found.settings, found.above) == (claims.HOLDS, 3, 1, 1)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.mean == pytest.approx(0.0248, abs=1e-4)
    assert verdict([down]).verdict == claims.NOT
    assert verdict([flat]).verdict == claims.OPEN
    assert verdict([up, flat]).verdict == claims.PART
    assert verdict([up, down]).verdict == claims.PART
    assert verdict([down, flat]).verdict == claims.NOT


def test_one_setting_below_is_never_called_to_hold() -> None:
    spread = np.array([-0.001, 0.0, 0.001])
    rows = [list(value + spread) for value in (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, -0.01)]
    assert verdict(rows).low > 0
    assert verdict(rows).verdict == claims.PART


def test_a_setting_of_two_seeds_does_not_count() -> None:
    assert verdict([[0.1, 0.1]]).verdict == claims.UNTESTED
    found = verdict([[0.1, 0.1], [0.1, 0.11, 0.12]])
    assert (found.settings, found.seeds) == (1, 3)


def test_a_claim_about_every_case_counts_cases() -> None:
    assert verdict([[1, 1], [1, 1]], every=True).verdict == claims.HOLDS
    half = verdict([[1, 1], [1, 0]], every=True)
    assert (half.verdict, half.mean) == (claims.PART, 0.75)
    assert verdict([[0, 0]], every=True).verdict == claims.NOT


def test_without_rows_there_is_no_verdict() -> None:
    rows = Rows(Path("nowhere"))
    assert decide(Claim("", "", "", why="no images"), rows).verdict == claims.UNTESTABLE
    assert decide(Claim("", "", "", untested=True), rows).verdict == claims.UNTESTED


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> list[Row]:
        made.append(name)
        return [Row("part", "setting", 0, name, "metric", 0.25, x=3)]

    def study() -> list[Cell]:
        return [Cell(name, lambda name=name: make(name)) for name in ("a", "b")]

    first = list(cells.computed(study(), tmp_path, report=lambda line: None))
    (tmp_path / "b.json").unlink()
    again = list(cells.computed(study(), tmp_path, report=lambda line: None))
    assert made == ["a", "b", "b"]
    assert [row.case for row in first] == [row.case for row in again] == ["a", "b"]
    cells.save(first, tmp_path / "papers-x.csv")
    frame = Rows(tmp_path).of("x")
    assert claims.pick(frame, "part", "metric", "a", x=3).tolist() == [0.25]
    assert frame["y"].isna().all()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, written anew from the committed rows."""
    place = tmp_path_factory.mktemp("papers")
    for name in (*pages.TITLES, pages.INDEX):
        shutil.copy(DOCS / f"{name}.md", place)
    pages.main(["--out", str(place)])
    return place


@pytest.mark.parametrize("name", [*pages.TITLES, pages.INDEX])
def test_the_pages_of_the_repository_are_what_their_rows_say(name: str, written: Path) -> None:
    """Tables, counts and the figures' titles, to the letter."""
    page = (written / f"{name}.md").read_text(encoding="utf-8")
    assert page == (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for picture in (written / name).glob("*.png"):
        assert f"]({name}/{picture.name})" in page
        assert (DOCS / name / picture.name).stat().st_size < 150_000


def test_a_claim_that_is_decided_by_an_interval_has_three_seeds() -> None:
    rows = Rows()
    for name in pages.TITLES:
        for found in pages.decided(name, rows):
            if not found.claim.every and found.settings:
                assert found.seeds >= 3, (name, found.claim.says)


def test_the_second_study_on_pacs_trains_and_draws_as_the_first() -> None:
    """Mean merging has the same scores in both, to the digit, so methods of one compare with the other's."""
    rows, keys = Rows(), ["seed", "site", "stream"]
    first, second = (rows.bench(name).query("method == 'mean'").set_index(keys) for name in (PACS, GRADIENTS))
    assert len(second) >= 8
    scores = ["accuracy", "balanced_accuracy", "auroc", "ece"]
    pd.testing.assert_frame_equal(first.loc[second.index, scores], second[scores])


def test_the_margin_on_pacs_is_paired_by_seed_on_one_stream() -> None:
    """Sites averaged, 0.5 and 0.7 against 0.4 and 0.6; other streams and lone seeds are left out."""

    def frame(method: str, values: list[float], *more: tuple[int, str]) -> pd.DataFrame:
        kept = [(0, "dirichlet-0.05"), (0, "dirichlet-0.05"), *more]
        return pd.DataFrame([
            {"seed": seed, "stream": stream, "method": method, "accuracy": value}
            for (seed, stream), value in zip(kept, [*values, *[9.0] * len(more)], strict=True)
        ])  # fmt: skip

    rows = Rows(Path("nowhere"))
    rows._read |= {
        PACS: frame("entropy-adaptive", [0.5, 0.7], (0, "iid"), (1, "dirichlet-0.05")),
        GRADIENTS: frame("memo", [0.4, 0.6], (0, "iid")),
    }
    found = on_pacs("memo")(rows)
    assert found["value"].tolist() == pytest.approx([0.1])
    assert found["setting"].tolist() == [PACS]


def test_images_are_32_pixels_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """28 px repeat their edge, 64 px are means of four; 20 of 100 classes are counted from 0."""
    small, large = np.full((4, 28, 28), 7, np.uint8), np.zeros((4, 64, 64, 3), np.uint8)
    large[:, ::2] = 100
    many = np.zeros((100, 32, 32, 3), np.uint8)
    for name, pixels, labels in (
        ("breastmnist", small, [0, 1, 0, 1]), ("melanoma_vidir_modern_64", large, [0, 1, 0, 1]),
        ("tinyimagenet100_32", many, range(100)),
    ):  # fmt: skip
        given = {f"{part}_images": pixels for part in ("train", "val", "test")}
        given |= {
            f"{part}_labels": np.array(list(labels), np.uint8)[:, None] for part in ("train", "val", "test")
        }
        np.savez(tmp_path / f"{name}.npz", **given)
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    grey, coarse, own, start = (
        images.pictures(name, 0, 100, 100) for name in ("breast", "melanoma", "tiny", "tiny-start")
    )
    assert grey.train.images.shape == (4, 3, 32, 32)
    assert (grey.train.images == 7).all()
    assert (coarse.test.images == 50).all()
    assert own.classes == 20
    assert sorted(own.train.labels.tolist()) == list(range(20))
    assert start.classes == 50
    assert len(start.train) == 50
