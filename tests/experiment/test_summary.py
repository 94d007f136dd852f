"""The sentences of the report say what the table says, also where a method loses."""

from __future__ import annotations

import pandas as pd
import pytest

from fedmerge.experiment.folder.results import summarise
from fedmerge.experiment.summary.summary import answer, asked, best_alone, cells, difference, ranking


def test_gains_and_losses_are_differences_of_the_table(tables):
    """81 % against 75 %, 70 % and 90 %: +6, +11 and -9 points."""
    sentence = answer(tables())
    assert "entropy-adaptive is the most accurate of 3" in sentence
    assert "gains 6.0 points on mean merging" in sentence
    assert "gains 11.0 points on the best single hospital (south)" in sentence
    assert "loses 9.0 points to pooled training" in sentence
    assert sentence.endswith("(one seed: no interval).")
    assert sentence.count(".") == 1 + sum(c == "." for c in "81.0 6.0 11.0 9.0")


def test_losing_to_a_single_hospital_is_said(tables):
    """The best tried model has 60 %, south alone 70 %: it loses 10 points."""
    sentence = answer(tables({"alone:south": 0.7, "mean": 0.55, "greedy": 0.6}))
    assert "greedy" in sentence
    assert "gains 5.0 points on mean merging" in sentence
    assert "loses 10.0 points to the best single hospital (south)" in sentence


def test_adaptation_that_loses_to_fusion_is_said(tables):
    sentence = answer(tables({"mean": 0.8, "entropy-adaptive": 0.745}))
    assert "mean is the most accurate" in sentence
    assert "entropy-adaptive loses 5.5 points to mean" in sentence
    assert "on mean merging" not in sentence


def test_equal_to_a_tenth_of_a_point_is_level(tables):
    assert "is level with mean merging" in answer(tables({"mean": 0.80001, "greedy": 0.80002}))


def test_mean_merging_under_another_label(tables):
    table = tables({"mean": 0.7, "greedy": 0.8}).replace({"method": {"mean": "plain"}})
    assert "gains 10.0 points on mean merging" in answer(table, mean="plain")
    assert "mean merging" not in answer(table)


def test_interval_is_paired_over_seeds(tables):
    """Differences -1, 2 and 5 points, though the seeds differ by 10: mean 2, half t(2) 3 / sqrt 3 = 7.452."""
    table = tables({"mean": 0.5, "greedy": 0.5}, seeds=(0, 1, 2))
    lift = table["seed"].map({0: -0.01, 1: 0.02, 2: 0.05})
    table["accuracy"] += table["seed"] * 0.1 + (table["method"] == "greedy") * lift
    found = difference(cells(table)["greedy"], cells(table)["mean"])
    assert [found.points, found.low, found.high] == pytest.approx([2.0, 2 - 7.4524, 2 + 7.4524], abs=1e-4)
    sentence = answer(table)
    assert "gains 2.0 points on mean merging (95\u00a0% interval −5.5 to +9.5, which includes no" in sentence
    assert sentence.endswith("; intervals over 3 seeds (one hospital: they say nothing of others).")
    assert "one seed" not in sentence


def test_intervals_over_hospitals_with_one_seed(tables):
    """Differences 1 and 3 points at two hospitals: half is t(1) times 1; that there is one seed is said."""
    table = tables({"mean": 0.5, "greedy": 0.51}, sites=("a", "b"))
    table["accuracy"] += 0.02 * ((table["method"] == "greedy") & (table["site"] == "b"))
    sentence = answer(table)
    assert (
        "gains 2.0 points on mean merging (95\u00a0% interval −10.7 to +14.7, which includes no" in sentence
    )
    assert sentence.endswith("; intervals over 2 hospitals (one seed: they say nothing of others).")


def test_no_difference_is_more_than_all_images(tables):
    """Gains of 0 and 60 points at two hospitals: half is t(1) 30 = 381 points, cut at 100."""
    table = tables({"mean": 0.3, "greedy": 0.3}, sites=("a", "b"))
    table["accuracy"] += 0.6 * ((table["method"] == "greedy") & (table["site"] == "b"))
    assert "gains 30.0 points on mean merging (95\u00a0% interval −100.0 to +100.0" in answer(table)


def test_interval_joins_the_name_of_the_hospital(tables):
    assert "(north; 95\u00a0% interval +10.0 to +10.0)" in answer(
        tables({"alone:north": 0.5, "mean": 0.6}, seeds=(0, 1))
    )


def test_images_under_scanner_shift_are_left_out(tables):
    table = tables().assign(severity=0)
    shifted = table.assign(severity=2, accuracy=0.0)
    assert answer(pd.concat([table, shifted])) == answer(table)


def test_a_method_that_did_not_finish_everywhere_is_not_ranked(tables):
    """greedy has 99 % but on one stream only."""
    table = tables({"mean": 0.7, "greedy": 0.99})
    table = table[(table["method"] != "greedy") | (table["stream"] == "iid")]
    assert list(ranking(table).index) == ["mean"]
    assert "greedy" not in answer(table)


def test_nothing_to_compare(tables):
    assert answer(tables({"alone:north": 0.7})).startswith("No fused or adapted model")


def test_best_single_hospital_is_chosen_at_each_site(tables):
    """Left out in turn: at a only b's model, at b only a's; the reference is 0.6 at a and 0.8 at b."""
    table = pd.concat(
        [
            tables({"alone:b": 0.6, "mean": 0.7}, sites=["a"]),
            tables({"alone:a": 0.8, "mean": 0.7}, sites=["b"]),
        ]
    )
    label, values = best_alone(table)
    assert label == "the best single hospital of each site"
    assert values.groupby("site").mean().to_dict() == pytest.approx({"a": 0.6, "b": 0.8})
    assert "is level with the best single hospital of each site" in answer(table)


def test_ranking_agrees_with_the_summary(tables):
    table = tables(seeds=(0, 1), sites=("a", "b"))
    table["accuracy"] += 0.01 * table["seed"] * (table["method"] == "greedy")
    summary = summarise(table)
    tried = summary[summary["kind"].isin(["fusion", "test-time"])][["iid", "temporal"]].mean(axis=1)
    assert ranking(table).to_dict() == pytest.approx(tried.to_dict())


def test_question_names_everything_that_was_asked(make_result):
    result = make_result(seeds=(3, 4))
    sentence = asked(result.experiment, result.cohort, ["coast"])
    for part in ("2 hospitals", "Tiny cohort", "small-cnn", "3 federated rounds", "mean and greedy", "coast",
                 "entropy-adaptive", "iid and temporal", "seeds 3 and 4"):  # fmt: skip
        assert part in sentence
    everywhere = ["north", "south", "coast"]
    assert "3 hospitals" in asked(result.experiment, result.cohort, everywhere)
    assert "each hospital in turn, left out" in asked(result.experiment, result.cohort, everywhere)
    all_train = result.experiment.model_copy(update={"unseen": "none"})
    assert "each hospital, on its own test images, receives" in asked(all_train, result.cohort, everywhere)
