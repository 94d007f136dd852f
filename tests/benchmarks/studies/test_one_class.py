"""Constant classifiers by their scores, from rows whose answers are known by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from benchmarks.pages import DIGITS
from benchmarks.studies import one_class
from fedmerge.analysis.chance import answers


def rows(*scores: tuple[str, float, float], classes: int = 2) -> pd.DataFrame:
    """Rows of method, accuracy and balanced accuracy, judged."""
    table = pd.DataFrame(scores, columns=["method", "accuracy", "balanced_accuracy"])
    table = table.assign(auroc_classes=classes, seed=0)
    return table.assign(one_class=one_class.one_class(table))


@pytest.mark.parametrize("classes", range(2, 13))
def test_one_class_for_all_is_found_by_its_score(classes: int) -> None:
    """It is right on all of one class and none of the others: 1 / K, also in four digits (1 / 7 = 0.1429)."""
    labels = torch.arange(5 * classes) % classes
    logits = torch.zeros(len(labels), classes)
    logits[:, 1] = 1.0
    assert answers(logits, labels).constant
    hits = (logits.argmax(1) == labels).double()
    balanced = torch.stack([hits[labels == each].mean() for each in range(classes)]).mean().item()
    assert rows(("a", 0, float(f"{balanced:{DIGITS}}")), classes=classes)["one_class"].all()


def test_what_is_near_or_of_another_number_of_classes_is_none() -> None:
    """One image more of 5,000 changes the fourth digit; a failed row has no score; 1 / 3 is none of four."""
    table = rows(("a", 0.6, 0.5001), ("b", 0.6, 0.4999), ("c", 0.6, math.nan), ("d", 0.6, 0.5))
    assert table["one_class"].tolist() == [False, False, False, True]
    assert not rows(("a", 0.6, 0.3333), classes=4)["one_class"].any()


def test_without_the_number_of_classes_nothing_is_found() -> None:
    table = pd.DataFrame({"balanced_accuracy": [0.5]})
    assert not one_class.one_class(table).any()
    assert not one_class.one_class(table.assign(auroc_classes=math.nan)).any()
    table = table.assign(method="a", one_class=False)
    assert "the number of classes is not known" in one_class.collapsed([("eyes", table, ["method"])])


def test_cells_are_marked_with_how_many() -> None:
    """One of two rows of mean is constant, none of kf."""
    table = rows(("mean", 0.7, 0.5), ("mean", 0.8, 0.7), ("kf", 0.9, 0.8), ("kf", 0.9, 0.8))
    mean, kf = (table[table["method"] == name] for name in ("mean", "kf"))
    assert one_class.scored("75.0", mean) == "75.0 † 1/2"
    assert one_class.scored("90.0", kf) == "90.0"
    assert one_class.paired("+15.0", kf, mean) == "+15.0 †"
    assert one_class.paired("+1.0", kf, kf) == "+1.0"
    assert one_class.paired("", mean) == ""
    note = one_class.noted("75.0 † 1/2", table, ["mean", "kf"]).split("\n\n")[1]
    assert note.startswith("† one class for every image: n/m")
    assert note.endswith("In this table 1 of 4 measurements; in differences: mean 1/2, kf 0/2.")
    assert one_class.noted("75.0", table) == "75.0"
    said = one_class.named(table, {"mean": "averaging", "kf": "`kf`", "ot": "transport"})
    assert said == "One class for every image: averaging in 1 of 2 and `kf` in 0 of 2 measurements."
    assert one_class.named(table, {"kf": "`kf`"}) == ""


@pytest.mark.parametrize(
    ("classes", "shares", "largest"),
    [
        (2, [0.3], 0.7),  # the other class has the rest
        (2, [0.3, 0.7], 0.7),
        (3, [0.5], 0.5),  # no other can be larger than the half that is left
        (3, [0.2, 0.2], math.nan),  # one share, seen twice: 0.8 is left for two classes
        (3, [0.2, 0.3], 0.5),  # one class is left, with half
        (4, [0.2, 0.3], math.nan),  # the half that is left may be that of one class
        (4, [0.3, 0.41], 0.41),  # 0.29 is left
        (2, [], math.nan),
    ],
)
def test_shares_of_classes_tell_the_largest(classes: int, shares: list[float], largest: float) -> None:
    chance = float(f"{1 / classes:{DIGITS}}")
    table = rows(("a", 0.99, 0.9), *(("b", share, chance) for share in shares), classes=classes)
    assert one_class.largest_class(table) == pytest.approx(largest, nan_ok=True)


def test_a_data_set_is_told_with_its_commonest_class() -> None:
    """Two test sets, apart by seed: 0.7 in the first, unknown in the second; b is constant most often."""
    first = rows(("a", 0.9, 0.9), ("a", 0.3, 0.5), ("b", 0.7, 0.5))
    second = rows(("a", 0.9, 0.9)).assign(seed=1)
    text = one_class.collapsed([("eyes", pd.concat([first, second]), ["seed"])]).replace("\u00a0", " ")
    assert (
        "- **eyes**: 2 of 4 measurements: b 1/1, a 1/3. Commonest class: balanced accuracy 50.0 %, "
        "accuracy 70.0 % in 1 of 2 test sets, of the others not told." in text
    )
    whole = one_class.collapsed([("eyes", first, ["seed"])]).replace("\u00a0", " ")
    assert "balanced accuracy 50.0 %, accuracy 70.0 %." in whole


def test_figures_mark_by_the_share_within_a_stratum() -> None:
    board = pd.DataFrame({"eye": ["left", "right"], "level": ["a", "a"], "constant": math.nan})
    table = rows(("a", 0.3, 0.5), ("a", 0.9, 0.9), ("a", 0.9, 0.9)).assign(eye=["left", "left", "right"])
    marked = one_class.marked_board(board, table, "method", ["eye"])
    assert marked["constant"].tolist() == [0.5, 0.0]
