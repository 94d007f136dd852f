"""What epsilon some rounds of noise give: by a closed form, and by another accountant."""

import math
import sys

import pytest
from facts import refused
from scipy.optimize import brentq
from scipy.stats import norm as normal

from fedmerge.federation.plan.privacy import AdaptivePrivacy, CentralPrivacy, LocalPrivacy
from fedmerge.federation.privacy.accounting import epsilon, epsilon_of


def exact(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian mechanism with sensitivity mu in units of its noise (arXiv 1805.06530)."""

    def excess(e: float) -> float:
        return float(normal.cdf(mu / 2 - e / mu) - math.exp(e) * normal.cdf(-mu / 2 - e / mu)) - delta

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (1.0, 10), (0.5, 10), (4.0, 50), (10.0, 3)])
def test_epsilon_is_that_of_the_closed_form(noise, rounds):
    """r rounds of noise z have mu = sqrt(r) / z; with local noise the sensitivity is twice the clip."""
    mu = math.sqrt(rounds) / noise
    for options in (
        CentralPrivacy(clip=3, noise=noise, delta=1e-5),
        AdaptivePrivacy(kind="adaptive", noise=noise, delta=1e-5),
    ):
        assert epsilon(options, rounds) == pytest.approx(exact(mu, 1e-5), rel=1e-6)
    local = LocalPrivacy(kind="local", clip=3, noise=2 * noise, delta=1e-5)
    assert epsilon(local, rounds) == pytest.approx(exact(mu, 1e-5), rel=1e-6)


def test_epsilon_is_that_of_dp_accounting_s_composition():
    """Ten rounds composed one by one by its accountant, which rounds up on a grid."""
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(4.0), 10))
    assert epsilon(CentralPrivacy(clip=1, noise=4.0), 10) == pytest.approx(
        accountant.get_epsilon(1e-5), rel=1e-3
    )


def test_different_noises_compose():
    """1 / 2^2 + 1 / 1^2 is 1 / z^2 with z = sqrt(4 / 5)."""
    assert epsilon_of([2.0, 1.0], 1e-5) == pytest.approx(exact(math.sqrt(5 / 4), 1e-5), rel=1e-6)


@pytest.mark.parametrize(
    ("noise", "delta"),
    [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan)],
)
def test_no_epsilon_is_told_of_no_noise_or_no_delta(noise, delta):
    """At delta 0 a Gaussian has none, however large."""
    with refused("noise", "delta", delta):
        epsilon_of([2.0, noise], delta)


def test_no_round_costs_nothing_and_every_round_costs_more():
    options = CentralPrivacy(clip=1, noise=2)
    spent = [epsilon(options, rounds) for rounds in range(6)]
    assert spent[0] == 0
    assert spent == sorted(set(spent))
    assert epsilon(CentralPrivacy(clip=1, noise=1000, delta=0.5), 1) == 0


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.pld.privacy_loss_mechanism", None)
    with refused("fedmerge[privacy]", "pip", "install"):
        epsilon(CentralPrivacy(clip=1, noise=1), 1)
