"""Read YAML text into plain values. Text that YAML would quietly change is refused, with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from fedmerge.errors import Faults, FedMergeError, short

DEEPEST = 50
"""The most levels of nesting."""
MOST_REPEATED = 100_000
"""The most values that aliases may add to those that are written."""
_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)")
_BREAKS = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")


def read_yaml(text: str, where: str, faults: Faults | None = None) -> Any:
    """Read a YAML text as mappings, lists, text, numbers, booleans and None.

    Raises FedMergeError, each sentence with ``where`` and the line, for broken YAML; and, all at once, for a
    key that is there twice; numbers that YAML 1.1 alone reads so (``010`` is 8 to it, ``1:30`` is 90), more
    than 64 bits, and NaN; dates; keys that would change (``no:`` is False, ``1.10:`` is 1.1); tags; more than
    ``DEEPEST`` levels; and aliases that stand for more than ``MOST_REPEATED`` values. faults: takes those of
    a text that can be read nevertheless, and they are not raised.
    """
    found = Faults()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        found.found += [f"{where}, line {line}: {sentence}" for line, sentence in _faults(node)]
        if faults is None:
            found.say()
        data = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        found.say()
        raise FedMergeError(_broken(error, text, where)) from None
    if faults is not None:
        faults.found += found.found
    return data


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain values; it refuses nesting that would exhaust Python's stack."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST and self.check_event(yaml.CollectionStartEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels of nesting", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _broken(error: Exception, text: str, where: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        line = 1 + len(_BREAKS.findall(text, 0, error.position))
        sign = ord(error.character) if isinstance(error.character, str) else error.character
        return f"{where}, line {line}: the character U+{sign:04X} cannot be in a YAML file: take it out."
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or "not YAML")
    line_of = f", line {mark.line + 1}" if mark else ""
    if "'\\t'" in problem:
        return f"{where}{line_of}: broken YAML (a tab): indent with spaces."
    if "another document" in problem:
        return f"{where}{line_of}: a second document begins here (---): keep one."
    return f"{where}{line_of}: broken YAML ({short(problem)}): correct that line."


def _faults(root: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield line and sentence of every fault, in the order of the file."""
    if root is None:
        return
    found: list[tuple[int, str]] = []
    sizes: dict[int, int] = {}
    size = _look(root, found, sizes)
    if size - len(sizes) > MOST_REPEATED:
        raise yaml.MarkedYAMLError(problem=f"its aliases stand for {size:,} values")
    yield from sorted(found)


def _look(node: yaml.Node, found: list[tuple[int, str]], sizes: dict[int, int]) -> int:
    """Return the number of values in a node, aliases followed, and add its faults; each node once."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            problem = "an alias stands inside what it stands for"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    if node.tag not in _PLAIN and not node.tag.endswith(":timestamp"):
        found.append(
            (_line(node), f"broken YAML (the tag '{short(node.tag)}' is not known here): take it out.")
        )
    if isinstance(node, yaml.MappingNode):
        found += _twice(node)
        for key, value in node.value:
            found += _key(key)
            size += _look(value, found, sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_look(each, found, sizes) for each in node.value)
    elif isinstance(node, yaml.ScalarNode) and (sentence := _scalar(node)):
        found.append((_line(node), sentence))
    sizes[id(node)] = size
    return size


def _twice(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    lines: dict[str, list[int]] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            lines.setdefault(key.value, []).append(_line(key))
    for text, at in lines.items():
        if len(at) > 1:
            where = f"{', '.join(map(str, at[:-1]))} and {at[-1]}"
            advice = "write <<: [*one, *other]" if text == "<<" else "keep one"
            yield at[-1], f"the key '{short(text)}' is there {len(at)} times (lines {where}): {advice}."


def _key(key: yaml.Node) -> Iterator[tuple[int, str]]:
    """Yield the fault of a key that YAML would not read as the text that is written."""
    if not isinstance(key, yaml.ScalarNode):
        yield _line(key), "a key must be a name, not a list or a mapping: write it as one word."
    elif key.tag not in (_TAG + "str", _TAG + "merge"):
        if key.tag == _TAG + "int" and re.fullmatch(r"0|-?[1-9][0-9]{0,19}", key.value):
            return
        if key.tag == _TAG + "float" and re.fullmatch(r"-?(0|[1-9][0-9]*)\.([0-9]*[1-9]|0)", key.value):
            return
        meaning = key.tag.removeprefix(_TAG)
        yield (
            _line(key),
            f"to YAML the key {short(key.value) or '(empty)'} is no text ({meaning}): put it in quotes.",
        )


def _scalar(node: yaml.ScalarNode) -> str:
    """Return the fault of a value that is no mapping and no list; "" where there is none."""
    text, quotes = node.value, f'for text, put it in quotes: "{short(node.value)}"'
    if node.tag == _TAG + "timestamp":
        return f"{short(text)} is a date to YAML, and nothing here is one: {quotes}."
    if node.tag == _TAG + "int":
        if not _INTEGER.fullmatch(text):
            return f"{short(text)} is {_meaning(text)} to YAML: write that number plainly, or, {quotes}."
        if len(text) > 30 or not -(2**63) <= int(text, 0) < 2**64:
            return f"the number {short(text)} has more than 64 bits: write a smaller one, or, {quotes}."
    if node.tag == _TAG + "float":
        if text.lower() == ".nan":
            return f"{text} (NaN) is no number to work with: write one, or, {quotes}."
        if ":" in text or "_" in text:
            return f"{short(text)} is {_meaning(text)} to YAML: write that number plainly, or, {quotes}."
    return ""


def _meaning(text: str) -> str:
    """Return the number that YAML 1.1 makes of ``010``, ``1:30`` or ``1_000``."""
    try:
        return str(yaml.safe_load(text[:40]))
    except (yaml.YAMLError, ValueError):
        return "another number"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
