"""Constant classifiers, chance, uneven classes: each rule against numbers worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from fedmerge.analysis import answers, by_site, leaderboard, learning, ranking_metric, uneven


def said(classes: list[int], n_classes: int) -> torch.Tensor:
    """Logits whose arg-max are these classes."""
    return torch.eye(n_classes)[classes]


def test_what_was_answered_by_hand():
    """Labels 0 0 0 1 of 3 classes, all called 0: one of two classes, shares 3/4 and 1; with n_c 3 and 1 and
    K = 2 the standard error is sqrt(1/4 (1/3 + 1)) / 2 = sqrt(1/3) / 2."""
    found = answers(said([0, 0, 0, 0], 3), torch.tensor([0, 0, 0, 1]))
    assert (found.classes_present, found.classes_predicted) == (2, 1)
    assert (found.largest_class, found.largest_predicted) == (0.75, 1.0)
    assert found.constant
    assert found.chance_error == pytest.approx(math.sqrt(1 / 3) / 2)


def test_one_class_for_images_of_one_class_is_no_constant_classifier():
    """There is nothing else to say: it is right."""
    assert not answers(said([1, 1], 3), torch.tensor([1, 1])).constant
    assert answers(said([2, 2], 3), torch.tensor([0, 1])).constant  # a class that is not there


@pytest.mark.parametrize(
    ("stray", "constant"),
    [
        (0, True),
        (4, True),  # 98 % in one class, balanced accuracy 1/2 + 4/200
        (5, False),  # 97.5 %
    ],
)
def test_nearly_one_class_is_constant_in_all_but_name(stray, constant):
    """100 images of each of two classes; some of class 1 are told, the rest are called 0."""
    labels = torch.arange(200) % 2
    classes = [0] * 200
    for place in range(stray):
        classes[2 * place + 1] = 1
    assert answers(said(classes, 2), labels).constant is constant


def test_who_finds_a_rare_class_seldom_but_rightly_is_not_constant():
    """10 of 1000 are ill, 3 are found and nobody else: 99.7 % get one class, balanced accuracy is 0.65."""
    labels = torch.zeros(1000, dtype=torch.long)
    labels[:10] = 1
    classes = [1] * 3 + [0] * 997
    assert not answers(said(classes, 2), labels).constant


def rows(method: str, balanced: float, **more: object) -> dict[str, object]:
    """A clean row of 4 classes with a standard error of guessing of 2 points."""
    row = {
        "method": method, "kind": "fusion", "seed": 0, "site": "a", "stream": "iid", "severity": 0,
        "accuracy": balanced, "balanced_accuracy": balanced, "classes_present": 4, "largest_class": 0.3,
        "constant": False, "chance_error": 0.02,
    }  # fmt: skip
    return row | more


@pytest.mark.parametrize(
    ("classes", "share", "is_uneven"),
    [
        (2, 0.6, False),
        (2, 0.61, True),
        (4, 0.35, False),
        (4, 0.36, True),
        (10, 0.2, False),
        (10, 0.21, True),
        (100, 0.02, False),
        (100, 0.03, True),
    ],
)
def test_uneven_classes(classes, share, is_uneven):
    """min(2 / K, 1 / K + 0.1): 0.6 for two, 0.35 for four, 0.2 for ten, 0.02 for a hundred."""
    table = pd.DataFrame([rows("mean", 0.5, classes_present=classes, largest_class=share)])
    assert uneven(table) == ({"a": share} if is_uneven else {})
    assert ranking_metric(table) == ("balanced_accuracy" if is_uneven else "accuracy")
    assert ranking_metric(table, "auroc") == "auroc"


def test_one_uneven_hospital_is_enough_and_shifted_images_do_not_count():
    even, other = rows("mean", 0.5), rows("mean", 0.5, site="b", largest_class=0.68)
    assert uneven(pd.DataFrame([even, other])) == {"b": 0.68}
    assert uneven(pd.DataFrame([even, other | {"severity": 2}])) == {}


def test_a_table_of_an_older_run_says_nothing():
    table = pd.DataFrame([rows("mean", 0.1)])[["method", "kind", "seed", "site", "stream", "accuracy"]]
    assert uneven(table) == {}
    state = learning(table).loc["mean"]
    assert state["learned"]
    assert state["worth"]
    assert math.isnan(state["constant"])


def test_learned_is_two_standard_errors_above_chance():
    """Chance is 0.25 and the error 0.02: 0.29 is not above, 0.2901 is."""
    table = pd.DataFrame([rows("level", 0.29), rows("above", 0.2901), rows("below", 0.2)])
    assert learning(table)["learned"].to_dict() == {"level": False, "above": True, "below": False}


def test_errors_of_hospitals_are_independent_those_of_seeds_are_not():
    """Errors 0.03 and 0.04 at two hospitals: sqrt(0.0009 + 0.0016) / 2 = 0.025, however many seeds."""
    table = pd.DataFrame(
        [
            rows("mean", 0.31, seed=seed, site=site, chance_error=error)
            for seed in range(3)
            for site, error in (("a", 0.03), ("b", 0.04))
        ]
    )
    state = learning(table).loc["mean"]
    assert state["error"] == pytest.approx(0.025)
    assert state["chance"] == pytest.approx(0.25)
    assert state["learned"]  # 6 points above, more than 5


@pytest.mark.parametrize(("constant", "learned"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_level_that_is_constant_most_of_the_time_has_learned_nothing(constant, learned):
    table = pd.DataFrame([rows("mean", 0.6, stream=str(i), constant=i < constant) for i in range(4)])
    state = learning(table).loc["mean"]
    assert state["constant"] == constant / 4
    assert state["learned"] == learned


def test_accuracy_must_be_above_the_commonest_class():
    """68 % are of one class. Right on 60 % with balanced accuracy 0.45: above chance, and not worth a
    headline in accuracy; it is in balanced accuracy."""
    table = pd.DataFrame([rows("mean", 0.45, accuracy=0.6, largest_class=0.68)])
    assert learning(table, metric="accuracy").loc["mean", ["learned", "worth"]].tolist() == [True, False]
    assert learning(table, metric="balanced_accuracy").loc["mean", "worth"]


def test_images_of_one_class_tell_nothing():
    one = rows("mean", 1.0, site="b", classes_present=1, largest_class=1.0, chance_error=0.0)
    table = pd.DataFrame([rows("mean", 0.25), one])
    assert not learning(table).loc["mean", "learned"]
    assert learning(pd.DataFrame([one])).loc["mean", "learned"]


def test_a_leaderboard_has_the_standing_of_each_level_and_of_the_reference():
    table = pd.DataFrame([rows("mean", 0.25, constant=True), rows("greedy", 0.5)])
    board = leaderboard(table, reference="mean", metric="balanced_accuracy").set_index("level")
    assert board["constant"].to_dict() == {"greedy": 0.0, "mean": 1.0}
    assert board["worth"].to_dict() == {"greedy": True, "mean": False}
    assert not board["reference_worth"].any()
    assert leaderboard(table, reference="greedy")["reference_worth"].all()


def test_by_site_says_where_a_level_is_constant():
    table = pd.DataFrame([rows("mean", 0.25, constant=True), rows("mean", 0.6, site="b")])
    frame = by_site(table).set_index("site")
    assert frame["constant"].to_dict() == {"a": 1.0, "b": 0.0}
    assert frame["worth"].to_dict() == {"a": False, "b": True}
