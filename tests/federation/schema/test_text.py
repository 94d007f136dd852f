"""Words from outside are one line, short, without what steers a terminal."""

from fedmerge.federation.messages.text import clean


def test_what_steers_a_terminal_or_turns_text_is_gone():
    assert clean("a\x1b[2Jb\u202ec\r\nd\ud800e") == "a [2Jb c d e"


def test_a_long_reason_keeps_its_beginning_and_its_end():
    kept = clean("a" + "x" * 10_000_000 + "z", longest=100)
    assert len(kept) == 100
    assert kept[0] == "a"
    assert kept[-1] == "z"
