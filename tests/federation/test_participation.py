from collections import Counter

import pytest
from facts import refused
from pydantic import ValidationError

from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.plan.participation import Participation, participants


def clients(names: str, first_node: int = 10) -> ClientRegistry:
    return ClientRegistry(Client(first_node + i, name, 60, 20, (20, 20, 20)) for i, name in enumerate(names))


def drawn(people: ClientRegistry, participation: Participation | None, seed: int = 0, round: int = 1) -> str:
    return "".join(member.name for member in participants(people, participation, seed, round))


@pytest.mark.parametrize(
    ("fraction", "hospitals", "expected"),
    [(0.5, 6, 3), (0.3, 10, 3), (0.01, 10, 1), (1.0, 7, 7), (0.25, 10, 2), (0.26, 10, 3)],
)
def test_a_fraction_is_rounded_but_never_to_nobody(fraction, hospitals, expected):
    assert Participation(fraction=fraction).of(hospitals) == expected


def test_a_round_s_hospitals_are_some_of_all_in_order_and_each_once():
    for round in range(1, 30):
        names = drawn(clients("abcdef"), Participation(number=3), round=round)
        assert len(names) == 3
        assert sorted(set(names)) == list(names)


def test_everyone_takes_part_without_it():
    assert drawn(clients("abc"), None) == "abc"
    assert drawn(clients("abc"), Participation(fraction=1.0)) == "abc"


def test_names_decide_and_node_ids_do_not():
    some = Participation(number=2)
    for round in range(1, 10):
        assert drawn(clients("abcdef"), some, round=round) == drawn(
            clients("abcdef", 7000), some, round=round
        )


def test_rounds_and_seeds_draw_anew_and_every_hospital_has_the_same_chance():
    """3 of 6 in 400 rounds: each is in 200 on average, with standard deviation 10; five of those is far."""
    draws = [drawn(clients("abcdef"), Participation(number=3), round=round) for round in range(400)]
    counts = Counter("".join(draws))
    assert all(150 < counts[name] < 250 for name in "abcdef")
    assert len(set(draws)) == 20  # each of the 6 choose 3 subsets came up
    assert draws[:20] != [drawn(clients("abcdef"), Participation(number=3), 1, round) for round in range(20)]


def test_more_than_there_are_is_a_sentence():
    with refused("participation.number", "4", "3", "hospitals"):
        participants(clients("abc"), Participation(number=4), 0, 1)


@pytest.mark.parametrize("given", [{}, {"fraction": 0.5, "number": 2}])
def test_one_of_the_two_must_be_set(given):
    with refused("fraction", "number", kind=ValidationError):
        Participation(**given)
