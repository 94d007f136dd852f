"""A study's report: tables and figures say what the results say, and reasons stand for what failed."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from facts import refused

from fedmerge.reports import write_study_report
from fedmerge.reports.calibration import joined
from fedmerge.reports.leaderboard_tables import board_table, contrast_table, failed_groups
from fedmerge.reports.leaderboards import leaderboards
from tests.experiment.study_pages import INMERGE, page_of, text_of


def headings(page: str) -> list[str]:
    return re.findall(r'<h2 id="(.*?)"', page)


def alts(page: str) -> list[str]:
    return re.findall(r'<img[^>]* alt="(.*?)"', page)


def test_a_leaderboard_says_mean_difference_and_record(make_study):
    """greedy: 78 %, 3 points above mean in all of 2 x 2 cells; its worst hospital has 78 %."""
    found = leaderboards(make_study())
    table = board_table(found, found.overall, "x")
    lines = {line.method: line for group in table.groups for line in group.lines}
    cells = dict(zip(table.names, lines["greedy"].cells, strict=True))
    assert cells["mean"].text == cells["worst hospital"].text == "78.0"
    assert (cells["difference, points"].text, cells["difference, points"].detail) == ("+3.0", "+3.0 to +3.0")
    assert cells["won / tied / lost"].text == "4 / 0 / 0"
    assert cells["average rank"].text == "3.0"  # pooled, entropy-adaptive, greedy
    assert lines["mean"].title == "the reference"
    best = {
        name for name, cell in zip(table.names, lines["entropy-adaptive"].cells, strict=True) if cell.best
    }
    assert {"mean", "worst hospital", "AUROC", "ECE", "Brier"} <= best
    assert not any(cell.best for cell in lines["pooled"].cells)


def test_two_levels_stand_side_by_side_in_every_setting(make_study):
    found = leaderboards(make_study(**INMERGE, cohorts=("digits", "blood")))
    table = contrast_table(found)
    assert [line.method for line in table.groups[0].lines] == ["digits", "blood"]
    assert [cell.text for cell in table.groups[0].lines[0].cells] == ["72.0", "70.0", "+2.0", "4 / 0 / 0"]
    assert contrast_table(leaderboards(make_study())) is None


def test_the_rules_stand_under_every_table(make_study):
    page = page_of(make_study(cohorts=("digits", "blood"), severities=(0, 1)))
    tables = re.findall(
        r'<table class="scores.*?</table>\s*</div>\s*<ul class="notes">(.*?)</ul>', page, re.DOTALL
    )
    assert len(tables) == page.count("<table") == 4  # together, two cohorts, robustness
    for notes in tables:
        assert "Selection" in notes
        assert "95 % interval" in notes


def test_every_figure_that_there_are_numbers_for(make_study):
    page = page_of(make_study(cohorts=("digits", "blood"), severities=(0, 1, 2)))
    assert {"scores", "strata", "sites", "severity", "cost", "reliability", "provenance"} <= set(
        headings(page)
    )
    assert len(alts(page)) == 6  # two forests, hospitals, severity, cost, reliability
    assert all(len(alt) > 40 and re.search(r"\d", alt) for alt in alts(page))


def test_a_study_of_little_has_few_figures_and_no_empty_ones(make_study):
    study = make_study({"mean": 0.7, "greedy": 0.8}, seeds=1, sites=("coast",),
                       methods={"mean": "fusion", "greedy": "fusion"})  # fmt: skip
    study.reliability = study.reliability.iloc[:0]
    page = page_of(study)
    assert headings(page) == ["answer", "scores", "provenance"]
    assert len(alts(page)) == 1


def test_robustness_is_relative_to_the_reference(make_study):
    """Errors at severity 1: mean 0.35, greedy 0.32; 0.32 / 0.35 = 91.4 %, both 10 points above clean."""
    page = page_of(make_study(severities=(0, 1)))
    part = page[page.index('id="severity"') :]
    row = re.search(r'<th scope="row">greedy.*?</tr>', part, re.DOTALL).group(0)
    values = [float(value) for value in re.findall(r'data-value="(.*?)"', row)]
    assert values == pytest.approx([0.22, 0.32, 0.10, 0.32 / 0.35])


def test_failures_are_counted_by_reason(make_study):
    failed = pd.DataFrame(
        {"job": ["a", "b", "b", "c"], "method": ["mean", "greedy", "greedy", "mean"], "seed": [0, 1, 2, 3]}
        | {"reason": ["no memory", "no head", "no head", "no memory"]}
    )
    first, second = failed_groups(failed)
    assert (first["reason"], first["jobs"]) == ("no memory", 2)
    assert second["where"] == ["greedy, seed 1", "greedy, seed 2"]


def test_many_reasons_are_folded_away(make_study):
    study = make_study()
    broken = study.table.iloc[:9].assign(status="failed", job=range(9), stream="", accuracy=float("nan"))
    broken["reason"] = [f"reason number {i}" for i in range(9)]
    study.table = pd.concat([study.table, broken])
    page = page_of(study)
    assert "5 more reasons" in page
    assert all(f"reason number {i}" in page for i in range(9))
    assert "9 failed" in text_of(page)


def test_when_everything_failed_the_reasons_are_the_report(make_study):
    study = make_study()
    study.table = study.table.assign(status="failed", reason="no memory", accuracy=float("nan"))
    page = page_of(study)
    assert "No job finished" in text_of(page)
    assert headings(page) == ["answer", "failures", "provenance"]


def test_text_of_others_is_escaped(make_study):
    evil = '<script>alert("x")</script>'
    study = make_study(
        {"mean": 0.7, evil: 0.8}, methods={"mean": "fusion", evil: "fusion"}, cohorts=(evil, "b"), title=evil,
        question=evil,
    )  # fmt: skip
    study.provenance = {evil: evil, "command": evil}
    page = page_of(study)
    assert page.count("<script") == 1
    assert "&lt;script&gt;" in page


def test_provenance_and_configuration(make_study):
    study = make_study()
    (study.folder / "study.yaml").write_text("name: as-written\n")
    text = text_of(page_of(study))
    for part in ("fedmerge bench study.yaml", "torch 2.15", "name: as-written", "job0"):
        assert part in text


def test_same_study_same_page_and_it_goes_where_it_is_told(make_study, tmp_path, monkeypatch):
    monkeypatch.undo()  # with its figures
    first = write_study_report(make_study(), tmp_path / "other.html")
    assert first == tmp_path / "other.html"
    assert not (tmp_path / "report.html").exists()
    assert page_of(make_study()) == first.read_text(encoding="utf-8")


def test_bins_are_joined_with_every_image_counting_once():
    """30 images of confidence 0.9 and 10 of 0.7 make 0.85; all right and none right make 75 %."""
    rows = [("a", 1, 30, 0.9, 1.0), ("a", 1, 10, 0.7, 0.0), ("a", 0, 0, float("nan"), float("nan"))]
    frame = pd.DataFrame(rows, columns=["method", "bin", "n", "confidence", "accuracy"]).assign(
        low=0.0, high=1.0
    )
    whole = joined(frame, "method").set_index("bin")
    assert whole.loc[1, ["n", "confidence", "accuracy"]].tolist() == pytest.approx([40, 0.85, 0.75])
    assert whole.loc[0, "n"] == 0
    assert pd.isna(whole.loc[0, "accuracy"])


def test_a_file_that_cannot_be_written_is_a_sentence(make_study, tmp_path: Path):
    with refused("report.html", "written"):
        write_study_report(make_study(), tmp_path / "no" / "folder" / "report.html")
