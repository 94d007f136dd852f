"""What may be scored: whatever else is given, a sentence says so, and no number comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedmerge.analysis import answers, fit_temperature, rates, reliability, scores
from fedmerge.merging import merge
from fedmerge.tasks import BINARY, MULTILABEL, ORDINAL, Task, mark
from tests.facts import refused

Z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [2.0, 0.0, 1.0]])
Y = torch.tensor([0, 1, 2, 1])
SCORERS: list[Callable[..., Any]] = [scores, rates, answers, reliability, fit_temperature]
every = pytest.mark.parametrize("scorer", SCORERS, ids=lambda each: each.__name__)


@every
@pytest.mark.parametrize(
    "labels",
    [Y.to(torch.uint8), Y.int(), Y.float(), Y.numpy(), Y.tolist(), torch.stack([Y, Y], 1)[:, 0]],
)
def test_labels_of_any_type_are_the_same_labels(scorer: Callable[..., Any], labels: Any) -> None:
    assert str(scorer(Z, labels)) == str(scorer(Z, Y)) == str(scorer(Z.numpy(), Y))


@every
@pytest.mark.parametrize(
    ("logits", "labels", "facts"),
    [
        (Z, Y + 1, ("1 to 3", "3 outputs", "0 to 2")),
        (Z, Y - 1, ("-1 to 1", "3 outputs")),
        (Z, Y[:, None], ("(4, 1)", "multiclass")),
        (Z, Y + 0.4, ("labels", "whole")),
        (Z, [0.0, float("nan"), 1.0, 1.0], ("labels", "whole")),
        (Z, Y[:3], ("4 images", 3)),
        (Z[:, 0], Y, ("(4,)", "N x D")),
        (Z[:, :, None], Y, ("(4, 3, 1)", "N x D")),
        (Z, "abcd", ("labels", "str")),
        (Z.to(torch.complex64), Y, ("logits", "complex")),
    ],
)
def test_what_does_not_fit_together_is_not_scored(
    scorer: Callable[..., Any], logits: Any, labels: Any, facts: tuple[object, ...]
) -> None:
    with refused(*facts):
        scorer(logits, labels)


@pytest.mark.parametrize("scorer", SCORERS[:-1], ids=lambda each: each.__name__)
def test_no_image_has_no_score(scorer: Callable[..., Any]) -> None:
    with refused("(0, 3)", "one image"):
        scorer(Z[:0], Y[:0])


@every
@pytest.mark.parametrize(
    ("task", "width", "labels", "facts"),
    [
        (ORDINAL, 2, Y + 1, ("1 to 3", "ordinal", 2)),
        (BINARY, 1, Y, ("0 to 2", "binary", 1)),
        (BINARY, 2, Y % 2, ("binary", 2)),
        (MULTILABEL, 2, 2 * Z[:, :2].long(), ("0 to 4", "0 or 1")),
        (MULTILABEL, 2, Y % 2, ("(4,)", "0 and 1", "multilabel")),
        (MULTILABEL, 3, Y[:, None] % 2, ("multilabel", 3)),
    ],
)
def test_labels_are_those_of_the_task(
    scorer: Callable[..., Any], task: Task, width: int, labels: torch.Tensor, facts: tuple[object, ...]
) -> None:
    with refused(*facts):
        scorer(Z[:, :width], labels, task=task)


def test_a_merge_takes_no_finding_that_is_neither_there_nor_absent() -> None:
    models = [mark(torch.nn.Sequential(torch.nn.Linear(3, 2)), "multilabel") for _ in range(2)]
    with refused("0 to 2", "0 or 1", "labels=", "model-0"):
        merge(models, "greedy", data=Z, labels=np.array([[0, 1], [2, 0], [1, 1], [0, 0]]))
