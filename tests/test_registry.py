import pytest

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs, Registry
from tests.facts import refused


@pytest.fixture
def registry() -> Registry:
    registry = Registry("fusion", "fusion method")

    @registry.method("soup", title="Soup", paper="A paper", needs=Needs(score=True))
    def soup(parents: list[int], *, rate: float = 0.5, order: str = "index") -> None:
        """Make soup.

        And more.
        """

    return registry


def test_options_come_from_the_keyword_only_parameters(registry):
    fields = registry["soup"].options.model_fields
    assert {name: field.default for name, field in fields.items()} == {"rate": 0.5, "order": "index"}
    assert registry["soup"].summary == "Make soup."
    assert registry["soup"].needs.names() == ["score"]


def test_check_returns_what_was_given_in_its_type(registry):
    assert registry["soup"].check({"rate": "0.25"}) == {"rate": 0.25}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratr": 1}, ["fusion method 'soup' has no option 'ratr'", "Did you mean 'rate'?"]),
        ({"rate": "much"}, ["'soup'", "'rate'", "'much'"]),
    ],
)
def test_bad_options_are_sentences(registry, options, words):
    with pytest.raises(FedMergeError) as caught:
        registry["soup"].check(options)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_name_is_a_sentence_and_a_second_registration_a_bug(registry):
    with refused("soop", "soup"):
        registry["soop"]
    with pytest.raises(ValueError, match="twice"):
        registry.method("soup", title="", paper="")(lambda: None)
