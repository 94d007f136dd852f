"""A study's report: the sentences, tables and figures say what the table says, and what is chance."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from facts import refused

from fedmerge.reports import write_study_report
from fedmerge.reports.calibration import joined
from fedmerge.reports.leaderboard_tables import board_table, contrast_table, failed_groups
from fedmerge.reports.leaderboards import fold, leaderboards
from fedmerge.reports.study_summary import caution, study_answer, study_question

INMERGE = {
    "accuracy": {"plain": 0.7, "inmerge": 0.72},
    "compare": "training",
    "reference": "plain",
    "axes": {"training": ("plain", "inmerge")},
    "methods": {"mean": "fusion"},
}


def page_of(study) -> str:
    return write_study_report(study).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", "", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL))


def headings(page: str) -> list[str]:
    return re.findall(r'<h2 id="(.*?)"', page)


def alts(page: str) -> list[str]:
    return re.findall(r'<img[^>]* alt="(.*?)"', page)


def test_the_best_against_the_reference(make_study):
    """entropy-adaptive has 81 %, mean 75 %; nothing varies, so the interval is the difference itself."""
    sentence = study_answer(leaderboards(make_study()))
    assert "Of 3 fused and adapted methods entropy-adaptive has the best accuracy, 81.0\u00a0%" in sentence
    assert "on average over 2 seeds and 2 hospitals" in sentence
    assert "6.0 points better than mean with 75.0\u00a0%" in sentence
    assert "interval of the difference +6.0 to +6.0)" in sentence
    assert "pooled" not in sentence  # 90 %, but a reference


def test_an_interval_with_zero_is_said_to_include_no_difference(make_study):
    """Noise of 5 points either way, opposed in the two levels: differences of 2 - 10 and 2 + 10 points.

    They cancel in the means of both seeds and both hospitals; what is left of each cell is 10 either way,
    R = 400 / 4, and t(1) sqrt R = 127 points, which no difference of accuracies can be.
    """
    study = make_study(**INMERGE, noise=0.05)
    sentence = study_answer(leaderboards(study))
    assert "inmerge reaches 72.0\u00a0% accuracy" in sentence
    assert "2.0 points better than plain" in sentence
    assert "−100.0 to +100.0, which includes no difference" in sentence


def test_a_level_that_loses_is_said_to_lose(make_study):
    study = make_study(**(INMERGE | {"accuracy": {"plain": 0.7, "inmerge": 0.66}}))
    assert "4.0 points worse than plain with 70.0\u00a0%" in study_answer(leaderboards(study))


def test_nothing_beats_the_reference(make_study):
    study = make_study({"mean": 0.8, "greedy": 0.7, "entropy-adaptive": 0.75, "pooled": 0.9})
    sentence = study_answer(leaderboards(study))
    assert sentence.startswith("None of 2 fused and adapted methods beats mean with 80.0\u00a0%")
    assert "the closest, entropy-adaptive, is 5.0 points worse than it" in sentence


def test_small_is_good_for_calibration_errors(make_study):
    """ECE is 1 - accuracy here: the best is still entropy-adaptive, with 0.19 against 0.25."""
    sentence = study_answer(leaderboards(make_study(metric="ece")))
    assert "entropy-adaptive has the best calibration error (ECE), 0.190" in sentence
    assert "6.0 points better than mean with 0.250" in sentence


def test_without_a_reference_the_next_best_is_what_it_is_compared_with(make_study):
    found = leaderboards(make_study(reference=None))
    assert "3.0 points better than the next, greedy" in study_answer(found)
    assert caution(found).startswith("No reference was named")


def test_one_seed_at_one_hospital_has_no_interval(make_study):
    found = leaderboards(make_study(seeds=1, sites=("coast",)))
    assert "no interval: one seed, one hospital" in study_answer(found)
    assert "cannot be told" in caution(found)


def test_a_level_that_did_not_finish_everywhere_is_not_called_best(make_study):
    study = make_study()
    gone = (study.table["method"] == "entropy-adaptive") & (study.table["seed"] == 1)
    study.table = study.table[~gone]
    assert "greedy reaches 78.0\u00a0% accuracy" in study_answer(leaderboards(study))
    assert "not everywhere" in text_of(page_of(study))


def test_comparisons_are_counted_and_so_are_those_that_chance_would_give(make_study):
    """Two methods against mean in two cohorts make 4; 5 % of 4 are 0.2. All 4 gain in every cell."""
    words = caution(leaderboards(make_study(cohorts=("digits", "blood"))))
    assert words.startswith("4 comparisons with mean in 2 settings of cohort, each with its own")
    assert "4 better, 0 worse, 0 with an interval that includes no difference" in words
    assert "about 0.2 of 4 would still exclude zero" in words
    assert "best was picked on these very scores" in words


def test_strata_are_all_settings_with_several_values_but_the_compared(make_study):
    study = make_study(**(INMERGE | {"methods": {"mean": "fusion", "greedy": "fusion"}}), cohorts=("a", "b"))
    found = leaderboards(study)
    assert found.within == ("cohort", "method")
    assert found.strata == [("a", "mean"), ("a", "greedy"), ("b", "mean"), ("b", "greedy")]
    assert found.over_strata == "4 settings of cohort and method"
    assert list(found.overall["level"]) == ["inmerge", "plain"]


def test_hospitals_of_two_cohorts_are_different_hospitals(make_study):
    """coast and hill in two cohorts are four; strata that are no cohort are folded into the stream."""
    study = make_study(**(INMERGE | {"methods": {"mean": "fusion", "greedy": "fusion"}}), cohorts=("a", "b"))
    folded = fold(study.table, ("cohort", "method"))
    assert set(folded["site"]) == {"a, coast", "a, hill", "b, coast", "b, hill"}
    assert set(folded["stream"]) == {"iid, mean", "iid, greedy"}
    assert "4 hospitals" in study_answer(leaderboards(study))


def test_hospitals_alone_are_one_method_where_training_is_compared(make_study):
    alone = {"alone:north": "alone", "alone:south": "alone", "mean": "fusion"}
    found = leaderboards(make_study(**(INMERGE | {"methods": alone})))
    assert found.strata == [("alone",), ("mean",)]


def test_swept_settings_are_chosen_by_validation_alone(make_study):
    """lr 0.1 is best on test images, 0.01 in validation: only 0.01 is compared, and the page says so."""
    study = make_study(axes={"lr": ("0.1", "0.01")}, sweep=("lr",))
    slow = study.table["lr"] == "0.01"
    study.table["accuracy"] -= 0.2 * slow
    study.table["validation"] += 0.1 * slow
    found = leaderboards(study)
    assert set(found.table["lr"]) == {"0.01"}
    assert "61.0\u00a0%" in study_answer(found)
    text = text_of(page_of(study))
    assert "What validation chose" in text
    assert "never by a test score" in text


def test_methods_without_a_validation_score_are_left_out_of_a_sweep_and_named(make_study):
    study = make_study(axes={"lr": ("0.1", "0.01")}, sweep=("lr",))
    study.table.loc[study.table["method"] == "entropy-adaptive", "validation"] = float("nan")
    found = leaderboards(study)
    assert found.skipped == ("entropy-adaptive",)
    assert "no validation score to be chosen by: entropy-adaptive" in text_of(page_of(study))


def test_the_question_is_the_study_s_own_or_made_of_its_axes(make_study):
    assert study_question(make_study(question="Does it help?").config, None) == "Does it help?"
    study = make_study(cohorts=("digits", "blood"))
    words = study_question(study.config, leaderboards(study))
    assert words.startswith("Which of 4 methods has the best accuracy: ")
    assert "Asked for every cohort (digits and blood)." in words


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
