"""A hostile server that wants one hospital's numbers: sums that differ by it, both of its shares."""

from __future__ import annotations

import numpy as np
import pytest
from facts import refused

from fedmerge.federation.privacy.identity import Identity
from fedmerge.federation.privacy.masked import NoSum
from tests.federation.secure.steps import LABEL, masked, share, up_to_masked


def confirm(them, name, survivors):
    return them.put(name, "confirm", label=LABEL, survivors=list(survivors)).signature


def unmask(them, name, survivors, confirmed=None):
    return them.put(name, "unmask", label=LABEL, survivors=list(survivors), confirmed=confirmed or {})


@pytest.mark.parametrize("label", [LABEL, "run train 2", "another run train 1", "run validate 9"])
def test_four_and_then_three_hospitals_after_a_crash_and_a_restart(deployed, adverts, label):
    """The sum of four; processes begin anew; training gives the same numbers; d is away, or made to be."""
    them = deployed(4)
    _, four = them.total(them.offer())
    assert np.array_equal(four, them.plain("abcd"))
    for name in "abc":
        them.restart(name)
    shares = share(them, "abc", adverts, label)
    for name in "abc":
        with refused("participants", "b", "c"):
            masked(them, name, shares, "abc", label)
    with refused("0", "3", "hospitals", kind=NoSum):
        them.total(them.offer("abc", label), label)


def test_the_same_list_again_gives_the_same_sum(deployed):
    """What a resumed run does, whose server has lost the sum."""
    them = deployed(4)
    first = them.total(them.offer())
    for name in "abcd":
        them.restart(name)
    again = them.total(them.offer())
    assert again[0] == first[0]
    assert np.array_equal(again[1], first[1])


def test_all_take_part_again_but_one_is_said_to_be_lost_before_the_end(deployed):
    """The second sum has the same list of participants, and other survivors."""
    them = deployed(4)
    them.total(them.offer())
    for name in "abcd":
        them.restart(name)
    them.lost = {"masked": "d"}
    with refused("0", "4", "confirmations", kind=NoSum):
        them.total(them.offer(label="later train 1"), "later train 1")


def test_in_the_memory_of_a_simulation_too(net):
    them = net(4)
    them.total(them.offer())
    with refused("0", "3", "hospitals", kind=NoSum):
        them.total(them.offer("abc"))


def test_numbers_that_changed_may_be_summed_over_fewer(deployed):
    """The next round is not stuck: other numbers, other participants."""
    them = deployed(4)
    them.total(them.offer())
    for name in "abc":
        them.restart(name, them.numbers[name] + 1)
    _, total = them.total(them.offer("abc", "run train 2"), "run train 2")
    assert np.array_equal(total, them.plain("abc"))


def test_a_second_list_in_one_sum(net, adverts):
    them = net(4)
    lists = adverts(them.offer())
    them.put("a", "shares", label=LABEL, adverts=lists)
    with refused("shares", "list"):
        them.put("a", "shares", label=LABEL, adverts=lists[:3])


def test_masked_numbers_for_two_lists(net, adverts):
    them = net(5)
    shares = share(them, "abcde", adverts)
    masked(them, "a", shares, "abcde")
    with refused("masked", "numbers", "participants"):
        masked(them, "a", shares, "abcd")


def test_never_both_shares_of_a_hospital(net, adverts):
    """First all survive, then d is said to be lost; and the other way round."""
    for first, second in (("abcd", "abc"), ("abc", "abcd")):
        them = net(4)
        up_to_masked(them, "abcd", adverts)
        signed = {n: confirm(them, n, first) for n in first} if first == "abc" else {}
        opened = unmask(them, "a", first, signed)
        assert not opened.own.keys() & opened.pair.keys()
        with refused(", ".join(second)):
            unmask(them, "a", second, {}) if second == "abcd" else confirm(them, "a", second)


def test_half_is_told_that_all_live_and_half_that_one_is_lost(net, adverts):
    """a and b unmask for all four; for the list without d, only c signs, and nobody takes its word alone."""
    them = net(4)
    up_to_masked(them, "abcd", adverts)
    for name in "ab":
        unmask(them, name, "abcd")
        with refused("a", "other survivors"):
            confirm(them, name, "abc")
    signed = {"c": confirm(them, "c", "abc")}
    with refused("1", "hospitals", "3"):
        unmask(them, "c", "abc", signed)


def test_signatures_that_confirm_nothing(net, adverts):
    """One signature under all names; signatures of another list; of nobody."""
    them = net(5)
    up_to_masked(them, "abcde", adverts)
    one = confirm(them, "a", "abcd")
    forged = Identity.fresh().sign(b"survivors")
    other = {name: confirm(them, name, "abde") for name in "be"}
    for signed in (dict.fromkeys("abcd", one), other | {"a": one}, dict.fromkeys("abcd", forged), {}):
        with refused("hospitals", "confirmed"):
            unmask(them, "c", "abcd", signed)
