"""Sums under masks are exact whoever drops out, as long as enough stay; and fail in a sentence where not."""

import numpy as np
import pytest
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.federation.privacy.masked import NoSum, decode_wide, encode_wide
from fedmerge.federation.privacy.secure_sum import threshold

LABEL = "run train 1"


@pytest.mark.parametrize(("hospitals", "least"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (9, 7), (10, 7)])
def test_more_than_two_thirds_must_stay(hospitals, least):
    """Two groups of t have 2 t - n > n / 3 in common."""
    assert threshold(hospitals) == least
    assert 3 * (2 * least - hospitals) > hospitals


@settings(max_examples=60)
@given(data=st.data(), hospitals=st.integers(3, 7), seed=st.integers(0, 10))
def test_any_pattern_of_dropouts_gives_the_plain_sum_or_none(net, data, hospitals, seed):
    """The law of the protocol. U2 shared, U3 sent masked numbers, and later ones may be lost, too.

    With at least t in every step, the sum is that of U3, bit for bit; with fewer in one of them, there is
    none.
    """
    them = net(hospitals, words=7, seed=seed)
    some = st.sets(st.sampled_from(them.names))
    them.lost = {step: data.draw(some, label=step) for step in ("shares", "masked", "confirm", "unmask")}
    left, sizes = list(them.names), []
    for step in ("shares", "masked"):
        before, left = left, [name for name in left if name not in them.lost[step]]
        sizes.append(len(left))
    confirming = left if left == before else [name for name in left if name not in them.lost["confirm"]]
    sizes += [len(confirming), len([name for name in confirming if name not in them.lost["unmask"]])]
    if min(sizes) >= threshold(hospitals):
        names, total = them.total(them.offer())
        assert names == left
        assert np.array_equal(total, them.plain(left))
    else:
        with refused(hospitals, "hospitals", threshold(hospitals), kind=NoSum):
            them.total(them.offer())


def test_messages_are_three_a_hospital_and_a_fourth_where_one_was_lost(net):
    whole = net(5)
    whole.total(whole.offer())
    assert whole.asked == {"shares": 5, "masked": 5, "unmask": 5}
    lossy = net(5)
    lossy.lost = {"masked": "c"}
    lossy.total(lossy.offer())
    assert lossy.asked == {"shares": 5, "masked": 5, "confirm": 4, "unmask": 4}


def test_two_hospitals_have_no_sum(net):
    them = net(3)
    with refused("3", "hospitals", "2", kind=NoSum):
        them.total(them.offer("ab"))


def test_every_state_between_two_messages_may_be_another_process(net):
    """What waits is taken along by ``state_dict``: the same total."""
    from fedmerge.federation.hospital.secure.rounds import SecureHospital

    them = net(4)
    carry = them.carry

    def in_a_new_process(message):
        answer = carry(message)
        for name, hospital in them.hospitals.items():
            new = SecureHospital(name)
            new.load_state_dict(hospital.state_dict())
            them.hospitals[name] = new
        return answer

    them.carry = in_a_new_process
    them.lost = {"masked": "b"}
    names, total = them.total(them.offer())
    assert names == ["a", "c", "d"]
    assert np.array_equal(total, them.plain("acd"))


def test_numbers_are_forgotten_when_they_are_in_the_sum(net):
    them = net(3)
    them.total(them.offer())
    assert all("words" not in hospital.state_dict() for hospital in them.hospitals.values())


def test_an_answer_asked_for_again_is_the_same(net):
    """As with ``on_failure: retry``: every message twice, and the same sum."""
    them = net(4)
    carry = them.carry

    def twice(message):
        first, second = carry(message), carry(message)
        if first is not None and not first.has_error() and "arrays" in first.content:
            a, b = (r.content.array_records["arrays"]["numbers"].numpy() for r in (first, second))
            assert np.array_equal(a, b)
        return second

    them.carry = twice
    them.lost = {"masked": "d"}
    names, total = them.total(them.offer())
    assert names == ["a", "b", "c"]
    assert np.array_equal(total, them.plain("abc"))


def test_numbers_that_could_overflow_are_refused(net):
    them = net(3)
    them.numbers["b"] = np.array([2**62 // 3] + [0] * 19)
    with refused("2", "3", "hospitals", kind=NoSum):
        them.total(them.offer())


def test_sums_of_grams_are_the_pooled_ones_to_their_last_places(net):
    """A Gram matrix has entries of any size; under masks its sum over hospitals is that of all rows.

    Rows of four hospitals, columns from 1e-4 to 1e6. Each hospital's entry is rounded by 2^-45, and float64
    sums differ by their own rounding.
    """
    them = net(4)
    draws = np.random.default_rng(0)
    rows = {name: draws.normal(size=(50, 6)) * 10.0 ** np.arange(-4, 8, 2) for name in them.names}
    them.numbers = {n: encode_wide((x.T @ x).reshape(-1)).view(np.int64) for n, x in rows.items()}
    them.words = 72
    _, total = them.total(them.offer())
    pooled = np.concatenate(list(rows.values()))
    expected = (pooled.T @ pooled).reshape(-1)
    scale = sum(np.abs(x).T @ np.abs(x) for x in rows.values()).reshape(-1)
    error = np.abs(decode_wide(total.view(np.uint64)) - expected)
    assert np.all(error <= 4 * 2.0**-45 + 200 * np.finfo(float).eps * scale)
