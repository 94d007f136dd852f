"""YAML is read as it is written, or refused with its line."""

from __future__ import annotations

import string
import time

import pytest
import yaml
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.errors import Faults, FedMergeError
from fedmerge.schema.yaml_text import DEEPEST, read_yaml


def faults_in(text: str) -> tuple[str, ...]:
    with pytest.raises(FedMergeError) as caught:
        read_yaml(text, "a.yaml")
    return caught.value.args


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("training: {}\nname: x\ntraining: {}\n", "lines 1 and 3"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "lines 3 and 5"),
        ("a: 1\n'a': 2\n", "lines 1 and 2"),
        ("1: x\n'1': y\n", "lines 1 and 2"),  # keys become text
        ("{a: 1, b: 2, a: 3, a: 4}", "lines 1, 1 and 1"),
        ("- x\n- {a: 1,\n   a: 2}\n", "lines 2 and 3"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "lines 3 and 4"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_lines(text, lines):
    (sentence,) = faults_in(text)
    assert lines in sentence
    assert sentence.startswith("a.yaml, line ")


def test_aliases_and_merge_keys_work_and_may_be_overridden():
    text = "one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nmany: {<<: [*one, {c: 4}]}\nagain: *one\n"
    assert read_yaml(text, "a.yaml") == {
        "one": {"a": 1, "b": 2},
        "two": {"a": 1, "b": 3},
        "many": {"a": 1, "b": 2, "c": 4},
        "again": {"a": 1, "b": 2},
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("010", ["010 is 8", "in quotes"]),
        ("-010", ["-010 is -8", "in quotes"]),
        ("1:30", ["1:30 is 90", "in quotes"]),
        ("1:30.5", ["1:30.5 is 90.5", "in quotes"]),
        ("1_000", ["1_000 is 1000", "in quotes"]),
        ("1_0.5", ["1_0.5 is 10.5", "in quotes"]),
        ("0b11", ["0b11 is 3", "in quotes"]),
        ("!!int '010'", ["010 is 8"]),
        ("2024-01-01", ["a date", '"2024-01-01"']),
        ("2024-01-01 10:00:00", ["a date", "in quotes"]),
        ("2024-13-45", ["a date", "in quotes"]),
        (".nan", ["NaN"]),
        ("18446744073709551616", ["more than 64 bits"]),
        ("-9223372036854775809", ["more than 64 bits"]),
        ("9" * 5000, ["more than 64 bits"]),
        ("!!set {x}", ["tag", "set"]),
        ("!!binary aGk=", ["tag", "binary"]),
        ("=", ["tag"]),
    ],
)
def test_a_value_that_yaml_would_change_is_refused(value, words):
    (sentence,) = faults_in(f"x: 1\na: [3, {value}]\n" if "{" not in value else f"x: 1\na: {value}\n")
    assert sentence.startswith("a.yaml, line 2: ")
    assert all(word in sentence for word in words), sentence
    assert len(sentence) < 500


@pytest.mark.parametrize(
    "key", ["no", "on", "Yes", "off", "~", "null", "010", "1_000", "0x10", "1.10", "1e3_0.0", "2024-01-01"]
)
def test_a_key_that_would_become_other_text_is_refused(key):
    if not isinstance(yaml.safe_load(key), str):
        (sentence,) = faults_in(f"a:\n  {key}: 1\n")
        assert sentence.startswith("a.yaml, line 2: ")
        assert "in quotes" in sentence
    assert read_yaml(f"'{key}': 1", "a.yaml") == {key: 1}


def test_plain_values_are_what_they_are():
    text = "[0, 7, -7, 0x10, 1.5, 1., .5, 1.0e-3, .inf, true, yes, null, '010', x, 18446744073709551615]"
    assert read_yaml(text, "a.yaml") == [
        0, 7, -7, 16, 1.5, 1.0, 0.5, 0.001, float("inf"), True, True, None, "010", "x", 2**64 - 1,
    ]  # fmt: skip
    assert read_yaml("{2: a, 0.5: b, -3: c}", "a.yaml") == {2: "a", 0.5: "b", -3: "c"}
    assert read_yaml("", "a.yaml") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 3000 + "]" * 3000, ["line 1", f"more than {DEEPEST} levels"]),
        ("".join(f"{' ' * i}a:\n" for i in range(3000)), [f"line {DEEPEST + 1}", "levels of nesting"]),
        ("a: &a [*a]", ["line 1", "stands inside"]),
        ("a: 1\nb: \x00\n", ["line 2", "U+0000"]),
        ("a:\n\tb: 1\n", ["line 2", "tab", "spaces"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "second document"]),
        ("a: *b", ["line 1", "undefined alias"]),
        ("[a, b]: 1", ["line 1", "a key must be a name"]),
        ("a: !!int x", ["x is"]),
    ],
)
def test_what_is_no_yaml_of_ours_is_a_sentence(text, words):
    sentence = " ".join(faults_in(text))
    assert all(word in sentence for word in words), sentence


def test_a_bomb_of_aliases_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    began = time.perf_counter()
    (sentence,) = faults_in("\n".join(lines))
    # a_i has 10^(i+1) letters and (10^(i+1) - 1) / 9 lists; all of them, and the mapping
    expected = 1 + sum(10 ** (i + 1) + (10 ** (i + 1) - 1) // 9 for i in range(9))
    assert f"{expected:,} values" in sentence
    assert time.perf_counter() - began < 5


def test_all_faults_are_said_at_once_in_the_order_of_the_file():
    sentences = faults_in("a: 010\nb: 1\nc: 2024-01-01\nb: 2\nno: 3\n")
    assert [sentence.split(":")[0] for sentence in sentences] == [
        f"a.yaml, line {line}" for line in (1, 3, 4, 5)
    ]


def test_faults_may_be_collected_where_the_text_can_be_read():
    faults = Faults()
    assert read_yaml("a: 1\na: 2\n", "a.yaml", faults) == {"a": 2}
    assert len(faults.found) == 1
    with refused("lines", "1", "2"):
        faults.say()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(string.printable.replace("\x0b", "").replace("\x0c", ""), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(string.ascii_letters + string.digits + ":._-", max_size=6), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(values)
def test_what_we_write_is_read_back(value):
    """Configurations of runs are written by PyYAML, which quotes what it would not read back as text."""
    assert read_yaml(yaml.safe_dump(value), "a.yaml") == value
