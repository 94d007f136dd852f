"""Scores from inside the sources, by hand, and the choices that use them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.source_fit import fleiss_kappa, gaussian_kl, inseparability, norm_distances
from tests.facts import refused
from tests.testtime.grouped import adaptive


def one(value: float) -> Tensor:
    return torch.tensor(value)


def test_the_divergence_of_two_gaussians() -> None:
    """KL(N(1, 2) || N(0, 1)) = (2 - 1 - log 2 + 1) / 2; of one from itself 0; and never infinite."""
    assert float(gaussian_kl(one(1.0), one(2.0), one(0.0), one(1.0))) == pytest.approx(1 - math.log(2) / 2)
    assert float(gaussian_kl(one(3.0), one(2.0), one(3.0), one(2.0))) == pytest.approx(0)
    assert math.isfinite(float(gaussian_kl(one(0.0), one(0.0), one(0.0), one(1.0))))


def test_a_norm_is_at_no_distance_from_its_own_moments(models: list[nn.Module], batch: Tensor) -> None:
    model = copy.deepcopy(models[0])
    with torch.no_grad():
        seen = model.conv(batch)
        model.norm.running_mean.copy_(seen.mean(dim=(0, 2, 3)))
        model.norm.running_var.copy_(seen.var(dim=(0, 2, 3), correction=0))
        with norm_distances(model) as found:
            model(batch)
    assert float(found[0]) == pytest.approx(0, abs=1e-6)
    with norm_distances(models[1]) as found, torch.no_grad():
        models[1](batch)
    assert float(found[0]) > 0.01
    assert not models[1].norm._forward_pre_hooks, "the measuring is over"


def test_separability_by_hand() -> None:
    """Features 0, 2 | 8, 10 around 5: between 2 (16 + 16) = 64 of 25 + 9 + 9 + 25 = 68."""
    z, logits = torch.tensor([[0.0], [2.0], [8.0], [10.0]]), torch.eye(2)[[0, 0, 1, 1]]
    assert float(inseparability(z, logits)) == pytest.approx(1 - 64 / 68)
    assert float(inseparability(z, torch.eye(2)[[0, 0, 0, 0]])) == 1
    assert float(inseparability(torch.ones(4, 1), logits)) == 1


def test_kappa_of_two_sources_by_hand() -> None:
    """They say 0 0 1 1 and 0 1 1 1: three of four agree, classes 3/8 and 5/8: (3/4 - 34/64) / (30/64)."""
    said = torch.stack([torch.eye(2)[[0, 0, 1, 1]], torch.eye(2)[[0, 1, 1, 1]]])
    assert fleiss_kappa(said) == pytest.approx((48 - 34) / 30)
    assert fleiss_kappa(said[:1]) == 1
    assert fleiss_kappa(torch.stack([torch.eye(2)[[0, 0]]] * 3)) == 1
    assert fleiss_kappa(torch.stack([torch.eye(2)[[0, 1]], torch.eye(2)[[1, 0]]])) == pytest.approx(-1)


def test_where_the_sources_agree_too_well_the_mean_answers(models: list[nn.Module], batch: Tensor) -> None:
    mean = adaptive(models, temperature=math.inf)
    gated = adaptive(models, agreement=-1.0)  # kappa is never below -1
    torch.testing.assert_close(gated(batch), mean(batch))
    assert gated.trace.encoder == pytest.approx((1 / 3,) * 3)
    assert gated.forward_passes == 4
    plain, never = adaptive(models), adaptive(models, agreement=1.0)
    assert torch.equal(never(batch), plain(batch))


def test_sources_near_by_their_norms_get_the_coefficients(models: list[nn.Module], batch: Tensor) -> None:
    node = adaptive(models, statistic="norm-distance", head="shared", temperature=0.5)
    _, trace = node.observe(batch)
    far = []
    for model in models:
        with norm_distances(model) as found, torch.no_grad():
            model(batch)
        far.append(float(found[0]))
    assert trace.source_entropies == pytest.approx(far, rel=1e-4)
    assert trace.encoder == pytest.approx(torch.softmax(-torch.tensor(far) / 0.5, 0).tolist(), rel=1e-3)
    assert node.forward_passes == 4


def test_separable_features_get_the_coefficients_without_a_norm(linear, pixels) -> None:
    """Layer norm or none: images (1, 0), (0, 1) are told apart the same at every gain, so shares are even."""
    node = adaptive(
        [linear(1.0, 1.0), linear(3.0, 1.0)], statistic="feature-separability", head="shared", temperature=0.1
    )
    _, trace = node.observe(pixels([1.0, 0.0], [0.9, 0.1], [0.0, 1.0]))
    assert trace.encoder == pytest.approx((0.5, 0.5), abs=1e-5)
    assert 0 < trace.source_entropies[0] < 0.1


def test_scores_of_whole_encoders_go_with_shared_heads(models: list[nn.Module]) -> None:
    for statistic in ("norm-distance", "feature-separability"):
        with refused(statistic, "head", "shared"):
            adaptive(models, statistic=statistic)
    with refused("agreement", 1.5):
        adaptive(models, agreement=1.5)
