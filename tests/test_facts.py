"""The check of sentences by their facts must itself be able to fail."""

from __future__ import annotations

import pytest

from fedmerge.errors import FedMergeError
from tests.facts import has, refused


def test_every_fact_is_looked_for() -> None:
    with refused("north", 4, "classes"):
        raise FedMergeError("site 'north' has 4 classes, the model 3.")


@pytest.mark.parametrize("fact", ["south", 5, "class", "nor", "4 classes, the models"])
def test_a_fact_that_is_not_there_fails(fact: object) -> None:
    with pytest.raises(AssertionError, match="not in: site"), refused("north", fact):
        raise FedMergeError("site 'north' has 4 classes, the model 3.")


def test_an_unwanted_fact_fails() -> None:
    with pytest.raises(AssertionError, match="south"), refused("north", without=("south",)):
        raise FedMergeError("north and south.")


def test_nothing_raised_or_another_error_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), refused("north"):
        pass
    with pytest.raises(ValueError, match="north"), refused("north"):
        raise ValueError("north")


@pytest.mark.parametrize(
    ("sentence", "fact", "found"),
    [
        ("13 images", 3, False),
        ("1.3 images", 3, False),
        ("3.1 images", 3, False),
        ("3 images", 3, True),
        ("the limit is 3.", 3, True),
        ("'kf-paper' needs it", "kf", True),
        ("a_site needs it", "site", False),
    ],
)
def test_facts_are_whole_words(sentence: str, fact: object, found: bool) -> None:
    assert has(sentence, fact) is found
