"""What a study answers: the sentence, its caution, its question, and over which settings they are."""

from __future__ import annotations

from fedmerge.reports.leaderboards import fold, leaderboards
from fedmerge.reports.study_summary import caution, study_answer, study_question
from tests.experiment.study_pages import INMERGE, page_of, text_of


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
