"""The pages from their scores: the same as from the folders; those of the repository are up to date."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from facts import refused

from benchmarks import ROOT
from benchmarks.studies import pages_from_scores

WriteStudy = Callable[[Path, str, dict[str, Any], list[dict[str, Any]]], Path]
DOCS, RESULTS = ROOT / "docs" / "studies", ROOT / "benchmarks" / "results"


def test_what_a_folder_says_its_scores_say_too(write_study: WriteStudy, tmp_path: Path) -> None:
    """A study with an axis, saved as CSV without its columns of one value: levels, cells and differences."""
    rows = []
    gain = {"mean": 0.0, "kf": 0.03, "alone:a": -0.1}
    for level, seed, method in itertools.product(("2", "4"), range(3), gain):
        row = {"job": f"{level}-{seed}-{method}".replace(":", "_"), "status": "done", "reason": ""}
        row |= {"parents": level, "seed": seed, "method": method, "cohort": "digits", "model": "cnn"}
        row |= {"kind": "alone" if method.startswith("alone") else "fusion", "site": "far", "stream": "iid"}
        score = 0.5 + 0.01 * seed + gain[method] * int(level) + seed / 3e5  # the CSV keeps four digits
        row |= dict.fromkeys(("accuracy", "balanced_accuracy", "auroc"), score)
        rows.append(
            row | {"shift": "none", "severity": 0, "auroc_classes": 10, "device": "cpu", "versions": "{}"}
        )
    config = {"axes": {"parents": {"2": {}, "4": {}}}}
    folder = write_study(tmp_path / "tiny", "tiny", config, rows)
    study = pages_from_scores.fusion_scores.open_study(folder)
    pages_from_scores.fusion_page.save_scores(study, pages_from_scores.fusion_scores.SCORES, tmp_path)
    again = pages_from_scores.study_of(folder / "study.yaml", tmp_path)
    boards = [
        pages_from_scores.fusion_scores.board(pages_from_scores.fusion_scores.seen_of(each), "mean")
        for each in (study, again)
    ]
    columns = ["mean", "low", "high", "difference", "difference_low", "difference_high", "seeds", "sites"]
    pd.testing.assert_frame_equal(boards[0][columns], boards[1][columns])
    assert boards[1].loc["kf", "difference"] == pytest.approx(0.09, abs=1e-4)


@pytest.mark.parametrize("name", ["fusion", "test-time", "test-time-first", "in-model-merging"])
def test_the_pages_of_the_repository_are_what_their_scores_say(name: str, tmp_path: Path) -> None:
    """Tables and sentences, to the letter; figures are there."""
    shutil.copy(DOCS / f"{name}.md", tmp_path)
    pages_from_scores.main([name, "--out", str(tmp_path)])
    page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert page == (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for picture in (tmp_path / name).glob("*.png"):
        assert f"]({name}/{picture.name})" in page


def test_what_scores_do_not_say_is_kept(tmp_path: Path) -> None:
    """What stood between the marks of the images given stays, whatever it is."""
    page = (DOCS / "fusion.md").read_text(encoding="utf-8")
    marked = re.sub(r"(<!-- begin tested -->\n).*?(\n<!-- end)", r"\1as it was\2", page, flags=re.DOTALL)
    (tmp_path / "fusion.md").write_text(marked, encoding="utf-8")
    pages_from_scores.rewrite(tmp_path / "fusion.md", {"answer": "new"}, {})
    new = (tmp_path / "fusion.md").read_text(encoding="utf-8")
    assert "<!-- begin tested -->\nas it was\n<!-- end tested -->" in new
    assert "<!-- begin answer -->\nnew\n<!-- end answer -->" in new


def test_a_block_that_the_page_has_not_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- begin a -->\n<!-- end a -->\n")
    with refused("b", "block", "known"):
        pages_from_scores.rewrite(tmp_path / "page.md", {"b": ""}, {})


@pytest.mark.parametrize(
    ("method", "kind"), [("alone:a", "alone"), ("oracle-best-source", "oracle"), ("kf", "fusion")]
)
def test_kinds(method: str, kind: str) -> None:
    assert pages_from_scores._kind(method) == kind
