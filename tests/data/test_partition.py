from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.data.partition import divide, draw_proportions, largest_remainder, partition

labels = st.lists(st.integers(0, 4), max_size=80).map(lambda values: np.array(values, dtype=np.int64))
site = st.tuples(st.floats(0.05, 20), st.none() | st.floats(1e-6, 1e4))


@settings(max_examples=60)
@given(labels=labels, sites=st.lists(site, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_sample_goes_to_exactly_one_site(
    labels: np.ndarray, sites: list[tuple[float, float | None]], seed: int
) -> None:
    shares, concentrations = zip(*sites, strict=True)
    parts = partition(labels, shares, concentrations, np.random.default_rng(seed))
    assert len(parts) == len(sites)
    assert all(part.dtype == np.int64 for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))


@given(total=st.integers(0, 500), weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=9))
def test_largest_remainder_sums_and_is_off_by_less_than_one(total: int, weights: list[float]) -> None:
    proportions = np.array(weights) / sum(weights)
    counts = largest_remainder(total, proportions)
    assert counts.sum() == total
    assert np.all(np.abs(counts - total * proportions) < 1)


def test_largest_remainder_by_hand() -> None:
    """10 * (.46, .37, .17) = 4.6, 3.7, 1.7: floors 4 3 1, two left, for the remainders .7 and .7."""
    assert largest_remainder(10, np.array([0.46, 0.37, 0.17])).tolist() == [4, 4, 2]


def test_without_skew_the_shares_decide_every_class() -> None:
    proportions = draw_proportions(3, [1.0, 3.0], [None, None], np.random.default_rng(0))
    np.testing.assert_allclose(proportions, [[0.25] * 3, [0.75] * 3], rtol=1e-12)


@pytest.mark.parametrize("concentration", [0.05, 1.0, 8.0])
def test_equal_sites_follow_the_dirichlet_law(concentration: float) -> None:
    """Dirichlet(a, ..., a) over n sites: mean 1/n, variance (n - 1) / (n^2 (n a + 1)).

    The tolerance of each is five standard errors or more for 40 000 draws (a share lies in [0, 1], so its
    square deviation has a standard deviation of at most 0.5: 5 * 0.5 / 200 = 0.0125, and far less here).
    """
    n = 4
    draws = draw_proportions(40_000, [1.0] * n, [concentration] * n, np.random.default_rng(1))
    variance = (n - 1) / (n**2 * (n * concentration + 1))
    np.testing.assert_allclose(draws.mean(axis=1), 1 / n, atol=5 * np.sqrt(variance / 40_000))
    np.testing.assert_allclose(draws.var(axis=1), variance, atol=0.0125 * np.sqrt(variance))


def test_a_tiny_concentration_gives_each_class_to_one_site() -> None:
    draws = draw_proportions(200, [1.0] * 5, [1e-6] * 5, np.random.default_rng(2))
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(draws.sum(axis=0), 1)
    assert (draws.max(axis=0) > 0.999).mean() > 0.99


def test_a_huge_concentration_is_no_skew() -> None:
    draws = draw_proportions(50, [1.0, 2.0], [1e9, None], np.random.default_rng(3))
    np.testing.assert_allclose(draws, np.repeat([[1 / 3], [2 / 3]], 50, axis=1), atol=1e-3)


def test_only_those_that_take_a_class_divide_it() -> None:
    """Class 0 between sites of shares 1 and 3: 1/4 and 3/4; class 1 is the third site's alone."""
    takes = np.array([[True, False], [True, False], [False, True]])
    drawn = draw_proportions(2, [1.0, 3.0, 2.0], [None] * 3, np.random.default_rng(0), takes)
    np.testing.assert_allclose(drawn, [[0.25, 0.0], [0.75, 0.0], [0.0, 1.0]])


def test_who_takes_what_changes_no_draw() -> None:
    """Skewed weights w of two sites, taken by both: w / sum w; a class of one more site keeps them."""
    skewed = draw_proportions(3, [1.0, 1.0], [0.5, 0.5], np.random.default_rng(1))
    takes = np.array([[True, True, False], [True, True, True]])
    limited = draw_proportions(3, [1.0, 1.0], [0.5, 0.5], np.random.default_rng(1), takes)
    np.testing.assert_array_equal(limited[:, :2], skewed[:, :2])
    np.testing.assert_array_equal(limited[:, 2], [0.0, 1.0])


def test_splits_divided_alike_share_their_class_proportions() -> None:
    """Each class count of a site differs from its proportion by less than one sample in either split."""
    rng = np.random.default_rng(4)
    proportions = draw_proportions(3, [1.0] * 3, [0.7] * 3, rng)
    for n in (300, 90):
        labels = np.arange(n) % 3
        for part, row in zip(divide(labels, proportions, rng), proportions, strict=True):
            assert np.all(np.abs(np.bincount(labels[part], minlength=3) - row * n / 3) < 1)


def test_the_generator_decides_the_partition() -> None:
    labels = np.arange(100) % 2
    first, again, other = (
        partition(labels, [1.0, 1.0], [1.0, 1.0], np.random.default_rng(seed))[0].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


SHARES = [
    ([3.0, 1.0, 1.0, 1.0, 1.0], [0.5] * 5),
    ([3.0, 1.0, 1.0, 1.0, 1.0], [0.5] * 4 + [None]),
    ([3.0, 1.0, 1.0, 1.0, 1.0], [None] + [0.5] * 4),
    ([1.0, 2.0, 5.0, 3.0], [0.1, 1.0, None, 20.0]),
    ([4.0, 1.0, 1.0], [1e-3, None, 1e-6]),
]


@pytest.mark.parametrize(("shares", "concentrations"), SHARES)
def test_shares_that_differ_are_kept_on_average(shares: list[float], concentrations: list[float]) -> None:
    """E p_i = s_i / sum s; a part has a standard deviation of at most sqrt(m (1 - m)) for mean m."""
    draws = draw_proportions(20_000, shares, concentrations, np.random.default_rng(5))
    mean = np.array(shares) / sum(shares)
    np.testing.assert_allclose(draws.sum(axis=0), 1)
    assert np.all(np.abs(draws.mean(axis=1) - mean) < 5 * np.sqrt(mean * (1 - mean) / 20_000))


def test_a_share_is_kept_in_images_over_many_seeds() -> None:
    """3 of 3:1:1:1:1 is 42.9 % of 300 images; 400 partitions of three classes, standard error under 1.5 %."""
    labels = np.arange(300) % 3
    parts = [
        partition(labels, [3.0, 1, 1, 1, 1], [0.5] * 5, np.random.default_rng(seed))[0] for seed in range(400)
    ]
    assert abs(np.mean([len(part) / 300 for part in parts]) - 3 / 7) < 0.05


def test_sites_of_unequal_shares_follow_the_dirichlet_law() -> None:
    """Dirichlet(a m_i) with a = 0.5 and m = (1.5, 0.5): Beta(0.75, 0.25), variance .75 .25 / (1 + 1)."""
    draws = draw_proportions(40_000, [3.0, 1.0], [0.5, 0.5], np.random.default_rng(6))
    np.testing.assert_allclose(draws[0].mean(), 0.75, atol=0.01)
    np.testing.assert_allclose(draws[0].var(), 0.75 * 0.25 / 2, atol=0.003)


def test_a_site_without_skew_takes_exactly_its_share_and_lists_of_classes_count() -> None:
    """Of class 0 takes the third site 1 of 3 + 2 + 1, of class 1 1 of 2 + 1; class 2 is the first one's."""
    takes = np.array([[True, False, True], [True, True, False], [True, True, False]])
    shares, skews = [3.0, 2.0, 1.0], [0.3, 0.9, None]
    drawn = draw_proportions(3, shares, skews, np.random.default_rng(7), takes)
    np.testing.assert_allclose(drawn[2], [1 / 6, 1 / 3, 0])
    np.testing.assert_allclose(drawn[:, 2], [1, 0, 0])
    assert drawn[0, 1] == 0
    np.testing.assert_allclose(drawn.sum(axis=0), 1)


def test_equal_shares_keep_their_law_where_skews_differ() -> None:
    """Four exponentials beside a one: E 1 / (1 + Gamma(4)) = (2 - 1 + 1 - e E1(1)) / 6 = 0.2339."""
    draws = draw_proportions(40_000, [1.0] * 5, [1.0] * 4 + [None], np.random.default_rng(8))
    assert abs(draws[4].mean() - 0.2339) < 0.005
