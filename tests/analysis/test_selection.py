from __future__ import annotations

import math

import pytest

from fedmerge.analysis import select
from tests.facts import refused

SHIFTS = [("none", 0), ("blur", 3)]
VALUE = {("mean", "with"): 0.7, ("mean", "without"): 0.8, ("greedy", "with"): 0.9, ("greedy", "without"): 0.6}


def score(method, training, seed, **_):
    return VALUE[method, training] + 0.01 * seed


@pytest.fixture
def table(make_table):
    return make_table(score, shifts=SHIFTS, method=("mean", "greedy"), training=("with", "without"))


def test_the_highest_mean_in_each_stratum(table):
    chosen, kept = select(table, ["training"], within=["method"])
    assert chosen[["method", "training"]].values.tolist() == [["mean", "without"], ["greedy", "with"]]
    assert chosen["validation"].tolist() == pytest.approx([0.805, 0.905])
    assert set(zip(kept["method"], kept["training"], strict=True)) == {
        ("mean", "without"),
        ("greedy", "with"),
    }
    assert len(kept) == len(table) / 2  # the shifted rows of the chosen are kept too


def test_several_axes_at_once(table):
    chosen, kept = select(table, ["method", "training"])
    assert chosen[["method", "training"]].values.tolist() == [["greedy", "with"]]
    assert len(kept) == len(table) / 4


def test_the_test_score_has_no_say(table):
    before, _ = select(table, ["training"], within=["method"])
    after, _ = select(table.assign(accuracy=1 - table["accuracy"]), ["training"], within=["method"])
    assert before.equals(after)


def test_ties_go_to_the_first_to_appear(make_table):
    table = make_table(lambda **_: 0.5, method=("mean",), training=("z", "a"))
    assert select(table, ["training"])[0]["training"].tolist() == ["z"]


def test_who_failed_somewhere_does_not_win_by_it(table):
    """Greedy with InMerge fails on seed 0, the harder one; now mean without it is the best that is whole."""
    failed = (table["method"] == "greedy") & (table["training"] == "with") & (table["seed"] == 0)
    table.loc[failed, ["status", "validation"]] = ["failed", math.nan]
    assert select(table, ["method", "training"])[0].iloc[0].tolist()[:2] == ["mean", "without"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "accuracy"}, ("look", "accuracy")),
        ({"by": "validaton"}, ("validation", "validaton")),
        ({"axes": ["trainig"]}, ("training", "trainig")),
        ({"axes": []}, ("axis", "least")),
    ],
)
def test_bad_input_is_one_sentence(table, options, words):
    with refused(*words):
        select(table, **({"axes": ["training"]} | options))


def test_a_stratum_without_a_score_is_named(table):
    table.loc[table["method"] == "mean", "validation"] = math.nan
    with refused("validation", "score", "column"):
        select(table, ["training"], within=["method"])
    with refused("finished", "images", "validation"):
        select(table.assign(status="failed"), ["training"])
