"""docs/concepts.md: its numbers are those of the kept scores, and its pictures are there and drawn."""

from __future__ import annotations

import json
import math
import re

import pandas as pd
import pytest

from benchmarks import RESULTS, ROOT, concepts
from benchmarks.pages import kept
from fedmerge.reports.figures import style

PAGE = ROOT / "docs" / "concepts.md"
KEYS = ["data", "parents", "split", "seed"]


def test_the_page_says_what_the_kept_scores_say():
    """Where this fails: `python -m benchmarks.concepts --out docs/concepts.md` writes it anew."""
    shown = kept(PAGE.read_text(encoding="utf-8"))
    for name, sentence in concepts.blocks().items():
        assert sentence in shown[name]
        assert (PAGE.parent / "concepts" / f"{name}.svg").is_file()
        assert f"![{concepts.alt(name)}](concepts/{name}.svg)" in shown[name]


def test_a_line_of_a_picture_is_the_mean_difference_of_paired_rows():
    rows = pd.read_csv(RESULTS / "bench-fusion.csv")
    rows = rows[rows["start"] == "independent"]
    scores = {name: part.set_index(KEYS)["balanced_accuracy"] for name, part in rows.groupby("method")}
    (line,) = [line for line in concepts.fusion_lines() if line.label == "kf, own starts"]
    by_setting = (scores["kf"] - scores["mean"]).groupby(KEYS[:3]).mean()
    assert line.value == pytest.approx(by_setting.mean(), abs=1e-9)
    assert line.low < line.value < line.high
    numbers = json.loads(concepts.NUMBERS.read_text())["bench-inmerge"]
    known = {row["level"]: row["difference"] for row in numbers}
    assert [line.value for line in concepts.inmerge_lines()] == [known[level] for level in concepts.INMERGE]


def test_pictures_are_vectors_with_their_words_as_text_and_dots_where_the_numbers_are():
    for concept in concepts.CONCEPTS.values():
        made = concepts.picture(concept)
        axes = made.axes[-1]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")]
        assert dots == pytest.approx([100 * line.value for line in concept.lines()])
        assert not any(math.isnan(dot) for dot in dots)
        svg = style.render(made, "svg").decode()
        assert len(re.findall(r"<text", svg)) > 5
        assert len(svg.encode()) < 60_000
