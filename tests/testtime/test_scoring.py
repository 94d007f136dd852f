from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedmerge.seeding import generator
from fedmerge.testtime.scoring import check_statistic, image_scores, scores
from tests.facts import refused


@pytest.fixture
def logits() -> Tensor:
    """Three sources, eight images, four classes."""
    return 3 * torch.randn(3, 8, 4, generator=generator(0, "test"))


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    return -(p * q.log()).sum(dim=-1) / math.log(4)


def test_statistics_by_their_definitions(logits: Tensor) -> None:
    p = torch.softmax(logits, dim=-1)
    mean, entropy = p.mean(dim=0), cross_entropy(p, p)
    whole = cross_entropy(p.mean(dim=1), p.mean(dim=1))
    expected = {
        "entropy": entropy.mean(dim=1),
        "median-entropy": entropy.quantile(0.5, dim=1),
        "trimmed-entropy": entropy.mean(dim=1),  # a tenth of eight images is none
        "prediction-entropy": whole,
        "mutual-information": entropy.mean(dim=1) - whole,
        "consensus": cross_entropy(p, mean).mean(dim=1),
        "agreement": cross_entropy(mean, p).mean(dim=1),
    }
    for statistic, value in expected.items():
        torch.testing.assert_close(scores(logits, statistic), value, rtol=1e-5, atol=1e-5)


def test_the_trimmed_mean_leaves_a_tenth_out_at_either_end() -> None:
    """Of ten images the surest and the least sure are left out."""
    logits = torch.randn(2, 10, 4, generator=generator(1, "test"))
    ordered = image_scores(logits, "entropy").sort(dim=1).values
    torch.testing.assert_close(scores(logits, "trimmed-entropy"), ordered[:, 1:9].mean(dim=1))


def test_consensus_is_entropy_where_all_agree(logits: Tensor) -> None:
    same = logits[:1].expand(3, -1, -1)
    torch.testing.assert_close(scores(same, "consensus"), scores(same, "entropy"))


def test_a_sure_dissenter_is_the_surest_and_last_by_agreement() -> None:
    logits = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 20.0]]])
    assert scores(logits, "entropy").argmin() == 2
    assert scores(logits, "agreement").argmax() == 2


@pytest.mark.parametrize("statistic", ["entropy", "consensus", "agreement"])
def test_predictions_beyond_doubt_stay_finite(statistic: str) -> None:
    logits = torch.tensor([[[1e6, 0.0]], [[0.0, 1e6]]])
    assert image_scores(logits, statistic).isfinite().all()


def test_unknown_statistics_are_sentences() -> None:
    with refused("certainty", "entropy"):
        check_statistic("certainty")
    with refused("median-entropy", "consensus", "agreement", "statistic", "image"):
        check_statistic("median-entropy", by_image=True)
