"""A hospital's sums over sets of images must tell no few images apart, whatever is added and subtracted."""

import itertools
import os
import stat

import numpy as np
import pytest
import torch
from facts import refused
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.sums.ledger import Ledger
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.storage.chained_log import BrokenChain

LEAST = 3
SETS = st.lists(st.frozensets(st.integers(0, 11), max_size=12), min_size=1, max_size=6)


def ledger(folder=None, **rules):
    return Ledger(folder, "north", SumRules(**({"minimum_images": LEAST} | rules)))


def named(numbers):
    return frozenset(str(number) for number in numbers)


def allowed(kept, numbers):
    try:
        kept.record(named(numbers), "outer")
    except FedMergeError:
        return False
    return True


@given(SETS)
def test_no_combination_of_answered_sums_is_about_fewer_images_than_the_minimum(sets):
    """Every combination with small whole coefficients, as a vector over images: each value that it has,
    other than zero, stands at no fewer than the minimum of images."""
    kept = ledger()
    answered = [numbers for numbers in sets if allowed(kept, numbers)][:4]
    table = np.array([[image in numbers for image in range(12)] for numbers in answered]).reshape(-1, 12)
    for weights in itertools.product((-2, -1, 0, 1, 2), repeat=len(answered)):
        told = np.array(weights) @ table
        for value in set(told[told != 0].tolist()):
            assert (told == value).sum() >= LEAST


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ([range(16)], range(17)),  # one more
        ([range(16)], range(15)),  # one less
        ([range(16)], [*range(15), 99]),  # one exchanged
        ([range(16), range(16, 32)], range(31)),  # a union but for one
        ([range(8), range(16)], range(7)),  # a chain, downwards
        ([range(8), range(8, 16)], [*range(6), *range(8, 14)]),  # less two of each
        ([range(10), range(5, 15)], range(5, 11)),  # their middle, and one
        ([range(12), range(4, 16)], [*range(4), *range(12, 16), 5]),  # their difference, and one
    ],
)
def test_sets_that_single_out_a_few_images_are_refused(before, then):
    kept = ledger()
    for numbers in before:
        assert allowed(kept, numbers)
    assert not allowed(kept, then)
    assert allowed(kept, before[-1])  # as often as anyone likes


def test_sets_that_differ_by_enough_are_answered_and_a_refused_one_leaves_no_trace():
    kept = ledger()
    assert allowed(kept, range(10))
    assert not allowed(kept, range(11))
    assert allowed(kept, range(13))  # with 10..12 new; were 0..10 on record, 11 and 12 would be two
    assert allowed(kept, range(20, 30))


def test_kinds_of_requests_and_processes_share_one_ledger(tmp_path):
    ledger(tmp_path).record(named(range(10)), "outer")
    with refused("1", "apart", "3"):
        ledger(tmp_path).record(named(range(11)), "moments")


def test_two_processes_that_hold_the_ledger_open_see_each_others_answers(tmp_path):
    one, two = ledger(tmp_path), ledger(tmp_path)
    assert allowed(one, range(10))
    assert allowed(two, range(20, 30))
    assert not allowed(one, range(20, 29))
    assert not allowed(two, range(9))


def test_images_are_known_by_content_and_every_copy_has_a_place():
    kept = ledger()
    images = torch.arange(4.0).reshape(4, 1, 1, 1)
    assert kept.names(images) == kept.names(images.flip(0))
    twice = torch.cat([images, images[:1]])
    assert len(kept.names(twice) - kept.names(images)) == 1  # one copy more is another set
    assert allowed(kept, []) is False
    kept.record(kept.names(images), "outer")
    with refused("1", "told", "apart"):
        kept.record(kept.names(twice), "outer")


def test_copies_of_one_image_are_one_image():
    kept = ledger()
    with refused("3", "2", "different"):
        kept.check(kept.names(torch.tensor([0.0, 0, 0, 0, 1]).reshape(5, 1, 1, 1)))


def test_the_names_say_nothing_without_the_key_and_no_one_else_reads_it(tmp_path):
    images = torch.arange(4.0).reshape(4, 1, 1, 1)
    one, two = ledger(tmp_path / "a"), ledger(tmp_path / "b")
    assert not one.names(images) & two.names(images)
    assert one.names(images) == ledger(tmp_path / "a").names(images)
    assert stat.S_IMODE((tmp_path / "a" / "sums.key").stat().st_mode) == 0o600
    assert len((tmp_path / "a" / "sums.key").read_bytes()) == 32


def test_a_ledger_that_was_tampered_with_or_lost_its_key_stops_all_sums(tmp_path):
    assert allowed(ledger(tmp_path), range(10))
    file, key = tmp_path / "sums.jsonl", tmp_path / "sums.key"
    whole, secret = file.read_bytes(), key.read_bytes()
    file.write_bytes(whole.replace(b'"7"', b'"8"'))
    with pytest.raises(BrokenChain):
        ledger(tmp_path).check(named(range(10)))
    file.write_bytes(whole)
    key.unlink()
    with refused("ledger", "put back"):
        ledger(tmp_path).check(named(range(10)))
    key.write_bytes(secret)
    ledger(tmp_path).check(named(range(10)))
    key.write_bytes(os.urandom(32))
    with refused("ledger", "put back"):
        ledger(tmp_path).check(named(range(10)))


def test_requests_about_one_set_are_counted_over_restarts(tmp_path):
    for _ in range(3):
        ledger(tmp_path, requests=3).record(named(range(10)), "outer")
    with refused("answered", "3", "requests"):
        ledger(tmp_path, requests=3).record(named(range(10)), "inputs")
    ledger(tmp_path, requests=3).record(named(range(20, 30)), "inputs")
    ledger(tmp_path, requests=4).record(named(range(10)), "inputs")


def test_noised_sums_are_counted_once_and_epsilon_bounds_them(tmp_path):
    """Two sums cost rho = 2 / (2 * 2^2) = 0.25: epsilon = 0.25 + 2 sqrt(0.25 ln 1e5) = 3.643; three, 4.53."""
    rules = {"noise": 2.0, "epsilon": 4.0}
    assert SumRules(**rules).spent(2) == pytest.approx(3.6431, abs=1e-4)
    kept = ledger(tmp_path, **rules)
    kept.record(named(range(10)), "outer", "request", 2)
    kept.record(named(range(10)), "outer", "request", 2)  # the same noise: nothing new
    assert kept.noised() == 2
    with refused("epsilon", "4.53", "4"):
        ledger(tmp_path, **rules).record(named(range(20, 30)), "outer", "other", 1)
    assert ledger(tmp_path, **rules).noised() == 2
