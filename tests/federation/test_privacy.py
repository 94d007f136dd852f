"""Central privacy: what one hospital can move, how large the noise is, and what epsilon that gives."""

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm as normal

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.central import CentralPrivacy, epsilon, norm, private_mean
from fedmerge.seeding import generator


def state(*values: float) -> dict[str, torch.Tensor]:
    """Two float tensors and a counter."""
    return {
        "a": torch.tensor(values[:2], dtype=torch.float64),
        "b": torch.tensor(values[2:], dtype=torch.float64),
        "n": torch.tensor(len(values)),
    }


def without_noise(start, states, options, seed=0, round=1):
    """The private mean, less the noise that whoever knows the seed can draw again."""
    new = private_mean(start, states, options, seed, round)
    draws = generator(seed, "noise", round)
    for key in ("a", "b"):
        drawn = torch.randn(new[key].shape, generator=draws, dtype=torch.float64)
        new[key] = new[key] - drawn * options.noise * options.clip / len(states)
    return new


def test_a_long_update_is_shortened_as_a_whole_and_a_short_one_is_not():
    """Updates of length 5 (3, 0, 4) and 0.5 with clip 1: (0.6, 0, 0.8) and itself; their plain mean."""
    start = state(1, 1, 1)
    mean = without_noise(start, [state(4, 1, 5), state(1, 1.5, 1)], CentralPrivacy(clip=1, noise=0.3))
    torch.testing.assert_close(mean["a"], torch.tensor([1.3, 1.25], dtype=torch.float64))
    torch.testing.assert_close(mean["b"], torch.tensor([1.4], dtype=torch.float64))
    assert mean["n"] == start["n"]


@given(
    updates=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=2, max_size=5),
    clip=st.floats(1e-3, 1e3),
)
def test_no_hospital_moves_the_mean_by_more_than_clip_over_n(updates, clip):
    """Against the same round in which the first hospital sends back what it was sent, with the same noise."""
    start, options = state(0, 0, 0), CentralPrivacy(clip=clip, noise=1)
    states = [state(*update) for update in updates]
    with_it = private_mean(start, states, options, 0, 1)
    without = private_mean(start, [start, *states[1:]], options, 0, 1)
    moved = norm(with_it[key] - without[key] for key in ("a", "b"))
    assert moved <= clip / len(states) * (1 + 1e-9) + 1e-9


def test_the_noise_has_the_deviation_it_must_and_is_drawn_anew_each_round():
    """noise * clip / n = 2 * 0.5 / 4 over 100,000 entries: the estimate is within 1.2 % (five deviations)."""
    start = {"w": torch.zeros(100_000, dtype=torch.float64)}
    options = CentralPrivacy(clip=0.5, noise=2)
    drawn = [
        private_mean(start, [start] * 4, options, seed, round)["w"]
        for seed, round in ((0, 1), (0, 2), (1, 1))
    ]
    for noise in drawn:
        assert float(noise.std()) == pytest.approx(0.25, rel=0.012)
        assert abs(float(noise.mean())) < 5 * 0.25 / math.sqrt(100_000)
    for one, other in ((0, 1), (0, 2)):
        correlation = torch.corrcoef(torch.stack([drawn[one], drawn[other]]))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(100_000)
    assert torch.equal(drawn[0], private_mean(start, [start] * 4, options, 0, 1)["w"])


def exact(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian mechanism with sensitivity mu in units of its noise (arXiv 1805.06530)."""

    def excess(e: float) -> float:
        return float(normal.cdf(mu / 2 - e / mu) - math.exp(e) * normal.cdf(-mu / 2 - e / mu)) - delta

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (1.0, 10), (0.5, 10), (4.0, 50), (10.0, 3)])
def test_epsilon_is_that_of_the_closed_form(noise, rounds):
    """r rounds of noise z have mu = sqrt(r) / z."""
    options = CentralPrivacy(clip=3, noise=noise, delta=1e-5)
    assert epsilon(options, rounds) == pytest.approx(exact(math.sqrt(rounds) / noise, 1e-5), rel=1e-6)


def test_epsilon_is_that_of_dp_accounting_s_composition():
    """Ten rounds composed one by one by its accountant, which rounds up on a grid."""
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(4.0), 10))
    assert epsilon(CentralPrivacy(clip=1, noise=4.0), 10) == pytest.approx(
        accountant.get_epsilon(1e-5), rel=1e-3
    )


def test_no_round_costs_nothing_and_every_round_costs_more():
    options = CentralPrivacy(clip=1, noise=2)
    spent = [epsilon(options, rounds) for rounds in range(6)]
    assert spent[0] == 0
    assert spent == sorted(set(spent))
    assert epsilon(CentralPrivacy(clip=1, noise=1000, delta=0.5), 1) == 0


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.pld.privacy_loss_mechanism", None)
    with pytest.raises(FedMergeError, match=r"pip install 'fedmerge\[privacy\]'"):
        epsilon(CentralPrivacy(clip=1, noise=1), 1)


def test_a_round_without_updates_is_a_sentence():
    with pytest.raises(FedMergeError, match="no update to aggregate"):
        private_mean(state(0, 0, 0), [], CentralPrivacy(clip=1, noise=1), 0, 1)
